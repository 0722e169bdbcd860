package treediff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/guest/files"
	"github.com/aethervm/aether/internal/guest/serve"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// local is an agent in this process, at the other end of its protocol.
type local struct{ tree *files.Tree }

func (l local) ask(r agentproto.Request, each func(agentproto.Change) error) ([]byte, error) {
	req, err := agentproto.DecodeRequest(r.Append(nil))
	if err != nil {
		return nil, err
	}
	var said bytes.Buffer
	payload, err := serve.Tree(l.tree, req, &said)
	if err != nil {
		return nil, err
	}
	said.Write(agentproto.AppendFrame(nil, agentproto.KindDone, payload))
	return agentproto.ReadReply(&said, each)
}

func (l local) Changes(_ context.Context, after string, limit int, each func(agentproto.Change) error) (agentproto.Walked, error) {
	payload, err := l.ask(agentproto.Request{Op: agentproto.OpChanges, Path: after, Size: int64(limit)}, each)
	if err != nil {
		return agentproto.Walked{}, err
	}
	return agentproto.DecodeWalked(payload)
}

func (l local) Examine(_ context.Context, list []agentproto.Want, each func(agentproto.Change) error) error {
	_, err := l.ask(agentproto.Request{Op: agentproto.OpExamine, Wants: list}, each)
	return err
}

// overlays mounts overlays over one image, and returns their roots and trees.
func overlays(t *testing.T, image map[string]string, n int) (roots []string, trees []local) {
	t.Helper()
	testenv.Root(t)
	work := t.TempDir()
	if err := unix.Mount("tmpfs", work, "tmpfs", 0, ""); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(work, unix.MNT_DETACH) })
	lower := filepath.Join(work, "image")
	write(t, lower, image)
	for i := range n {
		root, upper, scratch := filepath.Join(work, fmt.Sprint("root", i)), filepath.Join(work, fmt.Sprint("upper", i)), filepath.Join(work, fmt.Sprint("work", i))
		for _, d := range []string{root, upper, scratch} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,redirect_dir=off,metacopy=off", lower, upper, scratch)
		if err := unix.Mount("overlay", root, "overlay", 0, data); err != nil {
			t.Skipf("no overlay can be mounted here: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
		u, err1 := os.Open(upper)
		l, err2 := os.Open(lower)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		tree := files.OverlayTree(u, l)
		t.Cleanup(func() { _ = tree.Close() })
		roots, trees = append(roots, root), append(trees, local{tree})
	}
	return roots, trees
}

// write makes files; a name that ends in "/" is a directory.
func write(t *testing.T, root string, content map[string]string) {
	t.Helper()
	for name, text := range content {
		full := filepath.Join(root, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(full, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// found lists what differs, a line each: "+", "-" or "~", the path, and the content if both have some.
func found(t *testing.T, a, b Tree, whole time.Time, opt sandbox.DiffOptions) ([]string, sandbox.Diff) {
	t.Helper()
	var lines []string
	d, err := Compare(t.Context(), a, b, whole, opt, func(c sandbox.FileChange) error {
		sign := map[sandbox.ChangeKind]string{sandbox.ChangeAdded: "+", sandbox.ChangeRemoved: "-", sandbox.ChangeChanged: "~"}[c.Kind()]
		lines = append(lines, strings.TrimSpace(sign+" "+c.Path+" "+string(c.Content)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines, d
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

var image = map[string]string{
	"etc/passwd": "root", "etc/group": "root", "etc/machine-id": "x", "usr/lib/a": "aaaa", "usr/lib/b": "bbbb", "usr/lib/deep/c": "c", "usr/share/x": "x",
	"opt/old/one": "1", "opt/old/two": "2", "opt/old/sub/three": "3", "var/": "", "move/this": "moved",
}

// What an overlay can show, in both directions.
func TestOverlay(t *testing.T) {
	roots, trees := overlays(t, image, 2)
	a, b := roots[0], roots[1]
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	got, d := found(t, trees[0], trees[1], time.Time{}, sandbox.DiffOptions{})
	expect(t, got)
	if d.Next != "" || d.Skipped != 0 {
		t.Errorf("%+v", d)
	}

	must(
		os.WriteFile(a+"/etc/passwd", []byte("ROOT"), 0o644),      // as long as it was
		os.WriteFile(b+"/etc/group", []byte("root2"), 0o644),      // longer
		os.WriteFile(a+"/etc/machine-id", []byte("y"), 0o644),     // aether's own
		os.WriteFile(b+"/usr/lib/a", []byte("aaaa"), 0o644),       // written, and the same
		os.Chmod(a+"/usr/lib/b", 0o600),                           // only its mode
		os.Remove(a+"/usr/lib/deep/c"),                            // a file
		os.RemoveAll(b+"/usr/share"),                              // a directory
		os.RemoveAll(a+"/opt/old"), os.Mkdir(a+"/opt/old", 0o755), // another one in its place
		os.WriteFile(a+"/opt/old/two", []byte("2"), 0o644),     // with a file that is the same
		os.MkdirAll(a+"/opt/old/sub", 0o755),                   // and a directory that hides one
		os.WriteFile(a+"/opt/old/sub/new", []byte("n"), 0o644), //
		os.WriteFile(a+"/var/same", []byte("both"), 0o644),     // new in both
		os.WriteFile(b+"/var/same", []byte("both"), 0o644),     //
		os.WriteFile(a+"/var/other", []byte("here"), 0o644),    //
		os.WriteFile(b+"/var/other", []byte("away"), 0o644),    //
		os.Symlink("x", a+"/var/link"), os.Symlink("y", b+"/var/link"),
		os.Rename(b+"/move/this", b+"/move/that"),
		os.WriteFile(b+"/var/-\n\x1b[2J\xff", nil, 0o644),
		os.Mkdir(b+"/var/d", 0o755), os.WriteFile(b+"/var/d/e", []byte("e"), 0o644), os.WriteFile(b+"/var/d-", nil, 0o644),
		unix.Mkfifo(a+"/var/fifo", 0o600), os.WriteFile(b+"/var/fifo", []byte("f"), 0o600),
	)
	want := []string{
		"~ /etc/group differs", "~ /etc/passwd differs", "- /move/this", "+ /move/that",
		"+ /opt/old/one", "- /opt/old/sub/new", "+ /opt/old/sub/three",
		"~ /usr/lib/b same", "+ /usr/lib/deep/c", "- /usr/share",
		"+ /var/-\n\x1b[2J\xff", "+ /var/d", "+ /var/d/e", "+ /var/d-", "~ /var/fifo", "~ /var/link", "~ /var/other differs",
	}
	slices.SortFunc(want, func(x, y string) int {
		px, _, _ := strings.Cut(x[2:], " ")
		py, _, _ := strings.Cut(y[2:], " ")
		if less(px, py) {
			return -1
		}
		return 1
	})
	got, _ = found(t, trees[0], trees[1], time.Time{}, sandbox.DiffOptions{})
	expect(t, got, want...)

	// The other way round.
	reverse := make([]string, len(want))
	for i, line := range want {
		reverse[i] = strings.NewReplacer("+ /", "- /", "- /", "+ /").Replace(line)
	}
	got, _ = found(t, trees[1], trees[0], time.Time{}, sandbox.DiffOptions{})
	expect(t, got, reverse...)

	// Path by path.
	var parts []string
	for next, n := "", 0; n < 100; n++ {
		got, d := found(t, trees[0], trees[1], time.Time{}, sandbox.DiffOptions{After: next, Paths: 1})
		if d.Paths != 1 {
			t.Fatalf("%+v", d)
		}
		parts = append(parts, got...)
		if next = d.Next; next == "" {
			break
		}
	}
	expect(t, parts, want...)

	// Without reading.
	got, _ = found(t, trees[0], trees[1], time.Time{}, sandbox.DiffOptions{Bytes: 1})
	if !slices.Contains(got, "~ /etc/passwd unknown") || !slices.Contains(got, "~ /etc/group differs") {
		t.Errorf("without reading: %q", got)
	}
}

// Of two whole trees, without an image beneath them.
func TestWholeTrees(t *testing.T) {
	began := time.Now()
	var trees []local
	var roots []string
	for range 2 {
		root := t.TempDir()
		write(t, root, image)
		tree, err := files.WholeTree(root)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tree.Close() })
		roots, trees = append(roots, root), append(trees, local{tree})
	}
	got, d := found(t, trees[0], trees[1], began, sandbox.DiffOptions{})
	expect(t, got)
	if d.Paths < len(image) {
		t.Errorf("%+v", d)
	}
	write(t, roots[0], map[string]string{"etc/passwd": "toor", "new/": "", "new/file": "x"})
	if err := os.RemoveAll(roots[0] + "/opt/old"); err != nil {
		t.Fatal(err)
	}
	// Of what both had from the beginning nothing is read.
	same, err := files.WholeTree(roots[0])
	if err != nil {
		t.Fatal(err)
	}
	defer same.Close()
	got, _ = found(t, trees[0], local{same}, time.Now().Add(time.Hour), sandbox.DiffOptions{Bytes: 1})
	expect(t, got)
	got, _ = found(t, trees[0], local{same}, began, sandbox.DiffOptions{Bytes: 1})
	if len(got) == 0 {
		t.Error("what was written since is taken to be the same because of its times")
	}
	got, _ = found(t, trees[0], trees[1], began, sandbox.DiffOptions{})
	expect(t, got, "~ /etc/passwd differs", "- /new", "- /new/file", "+ /opt/old", "+ /opt/old/one", "+ /opt/old/sub", "+ /opt/old/sub/three", "+ /opt/old/two")
}

// Directories that are nested too deeply, and ones with many names.
func TestLargeTrees(t *testing.T) {
	began := time.Now()
	root, other := t.TempDir(), t.TempDir()
	at, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	for range 300 {
		if err := unix.Mkdirat(int(at.Fd()), strings.Repeat("d", 200), 0o755); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Openat(int(at.Fd()), strings.Repeat("d", 200), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = at.Close()
		at = os.NewFile(uintptr(fd), "deep")
	}
	_ = at.Close()
	const many = pagePaths + 3000
	if err := os.Mkdir(root+"/e", 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range many {
		if err := os.WriteFile(fmt.Sprintf("%s/e/%d", root, i), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var trees []local
	for _, r := range []string{root, other} {
		tree, err := files.WholeTree(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tree.Close() })
		trees = append(trees, local{tree})
	}
	got, d := found(t, trees[0], trees[1], began, sandbox.DiffOptions{})
	if n := len(got); n < many+5 || n > many+50 || d.Skipped == 0 || d.Next != "" {
		t.Errorf("%d changes, %+v", n, d)
	}
	if !slices.IsSortedFunc(got, func(x, y string) int {
		if less(x, y) {
			return -1
		}
		return 1
	}) {
		t.Error("they are not in order")
	}
}
