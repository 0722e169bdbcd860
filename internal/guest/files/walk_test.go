package files

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
)

// walkAll lists a tree in parts of some paths.
func walkAll(t *testing.T, tree *Tree, part int) []string {
	t.Helper()
	var all []string
	for after := ""; ; {
		n := 0
		w, err := tree.Walk(after, part, func(c agentproto.Change) error {
			all, after = append(all, c.Path), c.Path
			n++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n > part || w.More && n == 0 {
			t.Fatalf("%d paths of %d, %+v", n, part, w)
		}
		if !w.More {
			return all
		}
	}
}

// However small the parts are, together they are all there is, in order.
func TestWalkInParts(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"a", "a/b", "a/b/c", "a-", "z", "many"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 300 { // more than are held at one time, at that depth
		if err := os.WriteFile(filepath.Join(root, "a/b/c", fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a/1", "a/b-", "a/b/x", "a.", "z/\n\xff\x1b"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := WholeTree(root)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	all := walkAll(t, tree, 1<<20)
	if len(all) != 311 || !slices.IsSortedFunc(all, func(x, y string) int {
		return strings.Compare(strings.ReplaceAll(x, "/", "\x00"), strings.ReplaceAll(y, "/", "\x00"))
	}) {
		t.Errorf("%d paths: %q", len(all), all)
	}
	for _, part := range []int{1, 2, 3, 7, 64, 65, 100, 310, 311} {
		if got := walkAll(t, tree, part); !slices.Equal(got, all) {
			t.Errorf("in parts of %d: %d paths", part, len(got))
		}
	}
}

// Whatever has a path, looking at it ends, and follows no link.
func TestExamine(t *testing.T) {
	root, elsewhere := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	write(root+"/f", "hello")
	write(elsewhere+"/f", "hello")
	for _, err := range []error{
		os.Symlink(elsewhere, root+"/out"), os.Symlink("f", root+"/link"), os.Symlink("loop", root+"/loop"), unix.Mkfifo(root+"/fifo", 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	tree, err := WholeTree(root)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	alive := func() error { return nil }
	for name, c := range map[string]struct {
		size             int64
		gone, has        bool
		target, failWith string
	}{
		"/f": {size: 5, has: true}, "/f ": {gone: true}, "/f/x": {gone: true}, "/out/f": {gone: true}, "/link": {size: 1, target: "f"},
		"/loop/x": {gone: true}, "/fifo": {size: 0}, "/out": {size: int64(len(elsewhere)), target: elsewhere}, "/nothing/at/all": {gone: true},
	} {
		got, err := tree.Examine(agentproto.Want{Path: name, Size: c.size}, alive)
		if err != nil || got.Gone != c.gone || (got.Digest != "") != c.has || got.Target != c.target || got.Path != name {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if got, err := tree.Examine(agentproto.Want{Path: "/f", Size: 4}, alive); err != nil || got.Digest != "" || got.Size != 5 {
		t.Errorf("of another size: %+v, %v", got, err)
	}
	if got, err := tree.Examine(agentproto.Want{Path: "/f", Size: -1}, alive); err != nil || got.Digest != "" {
		t.Errorf("without a digest: %+v, %v", got, err)
	}
	for _, bad := range []string{"", "f", "/../etc", "/a\x00"} {
		if got, err := tree.Examine(agentproto.Want{Path: bad}, alive); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
	write(root+"/large", strings.Repeat("x", 3*aliveEvery))
	gone := fmt.Errorf("nobody is there")
	if _, err := tree.Examine(agentproto.Want{Path: "/large", Size: 3 * aliveEvery}, func() error { return gone }); err != gone { //nolint:errorlint // this very one
		t.Errorf("a host that is gone: %v", err)
	}
}
