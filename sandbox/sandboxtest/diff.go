package sandboxtest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

// testDiff compares a sandbox with a copy of it.
func (s *suite) testDiff(t *testing.T, d sandbox.Driver) {
	ctx, cancel := bounded(t)
	defer cancel()
	a := s.create(t, d)
	differ, ok := a.Sandbox.(sandbox.Differ)
	if !ok {
		t.Skipf("%s does not compare sandboxes", d.System())
	}
	a.sh(t, `mkdir -p /root/d/deep /root/gone && cd /root/d && echo same >same && echo one >one && echo two >two && echo x >mode &&
		ln -s same link && echo m >moved && echo deep >deep/file && echo g >/root/gone/file && head -c 300000 /dev/urandom >large`)
	b := s.copyOf(ctx, t, d, a)
	found, diff := compare(t, differ, b, sandbox.DiffOptions{})
	if len(found) > 0 || diff.Next != "" || diff.Skipped > 0 || diff.Paths < 10 {
		t.Fatalf("a copy differs: %q, %+v", slices.Sorted(maps.Keys(found)), diff)
	}

	a.sh(t, `cd /root/d && echo ONE >one && rm deep/file && rm /etc/issue && mv moved renamed && touch same && printf x >only-a`)
	b.sh(t, `cd /root/d && echo longer >two && chmod 600 mode && ln -sfn one link && mkdir new && echo n >new/file && rm -rf /root/gone &&
		printf y | dd of=large bs=1 seek=150000 conv=notrunc 2>/dev/null && echo more >>/etc/debian_version &&
		rm -rf /etc/skel && mkdir /etc/skel && echo k >/etc/skel/own && mkfifo pipe &&
		touch "$(printf 'bad\n\033[2J\377x')" && head -c 8388608 /dev/urandom >/dev/shm/memory`)
	want := map[string]string{
		"/root/d/one": "changed differs", "/root/d/two": "changed differs", "/root/d/mode": "changed same", "/root/d/link": "changed", "/root/d/large": "changed differs",
		"/root/d/deep/file": "added", "/etc/issue": "added", "/root/d/moved": "added", "/root/d/renamed": "removed", "/root/d/only-a": "removed",
		"/root/d/new": "added", "/root/d/new/file": "added", "/root/gone": "removed", "/root/gone/file": "removed", "/etc/debian_version": "changed differs",
		"/etc/skel/own": "added", "/root/d/pipe": "added", "/root/d/bad\n\x1b[2J\xffx": "added",
	}
	for _, name := range strings.Fields(a.sh(t, "ls -A /etc/skel")) {
		want["/etc/skel/"+name] = "removed"
	}
	before := diff.Memory
	found, diff = compare(t, differ, b, sandbox.DiffOptions{})
	if !maps.Equal(found, want) {
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if found[name] != want[name] {
				t.Errorf("%q: %q, want %q", name, found[name], want[name])
			}
		}
		for _, name := range slices.Sorted(maps.Keys(found)) {
			if want[name] == "" {
				t.Errorf("%q: %q is not expected", name, found[name])
			}
		}
	}
	checkMemory(t, before, diff.Memory)

	// In parts, from the other side.
	parts := map[string]string{}
	for next, n := "", 0; ; n++ {
		more, diff := compare(t, b.Sandbox.(sandbox.Differ), a, sandbox.DiffOptions{After: next, Paths: 5000})
		for name, what := range more {
			if parts[name] != "" {
				t.Errorf("%q comes twice", name)
			}
			parts[name] = what
		}
		if next = diff.Next; next == "" || n > 100 {
			break
		}
	}
	for name, what := range parts {
		parts[name] = strings.NewReplacer("added", "removed", "removed", "added").Replace(what)
	}
	if !maps.Equal(parts, want) {
		t.Errorf("in parts: %q", parts)
	}

	stop := errors.New("enough")
	if _, err := differ.Diff(ctx, b.Sandbox, sandbox.DiffOptions{}, func(sandbox.FileChange) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a caller that has enough gets %v", err)
	}
	cancelled, cancelNow := context.WithCancel(ctx)
	cancelNow()
	if _, err := differ.Diff(cancelled, b.Sandbox, sandbox.DiffOptions{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that has gone gets %v", err)
	}
	if _, err := differ.Diff(ctx, stranger{b.Sandbox}, sandbox.DiffOptions{}, nil); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("with a sandbox of another system: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := differ.Diff(ctx, b.Sandbox, sandbox.DiffOptions{}, nil); !errors.Is(err, sandbox.ErrClosed) {
		t.Errorf("with a closed sandbox: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// stranger is a sandbox of another system.
type stranger struct{ sandbox.Sandbox }

// copyOf copies a sandbox, in whichever way its system can.
func (s *suite) copyOf(ctx context.Context, t *testing.T, d sandbox.Driver, original *box) *box {
	t.Helper()
	if f, ok := original.Sandbox.(sandbox.Forker); ok {
		list, err := f.Fork(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		return &box{list[0]}
	}
	saver, saves := original.Sandbox.(sandbox.Snapshotter)
	r, restores := d.(sandbox.Restorer)
	if !saves || !restores {
		t.Skipf("%s offers no copies", d.System())
	}
	snap, err := saver.Snapshot(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.Restore(ctx, snap)
	if err := errors.Join(err, r.RemoveSnapshot(ctx, snap)); err != nil {
		t.Fatal(err)
	}
	return &box{b}
}

// compare lists what differs, by path.
func compare(t *testing.T, a sandbox.Differ, b *box, opt sandbox.DiffOptions) (map[string]string, sandbox.Diff) {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	found := map[string]string{}
	d, err := a.Diff(ctx, b.Sandbox, opt, func(c sandbox.FileChange) error {
		found[c.Path] = strings.TrimSpace(string(c.Kind()) + " " + string(c.Content))
		return nil
	})
	if err != nil {
		t.Fatalf("compare: %v", err)
	}
	return found, d
}

// checkMemory holds what is said of memory to what was written: much by the second, little by the first.
func checkMemory(t *testing.T, before, after *sandbox.MemoryDiff) {
	t.Helper()
	if after == nil {
		if before != nil {
			t.Error("nothing is said of memory any more")
		}
		return
	}
	t.Logf("memory before: %+v, after: %+v", *before, *after)
	const much = 8 << 20
	if after.OwnB-before.OwnB < much || after.OwnA-before.OwnA >= much || after.Differs < after.OwnB || after.Differs > after.OwnA+after.OwnB ||
		after.Differs > after.Total {
		t.Errorf("memory before: %+v, after 8 MiB were written in the second: %+v", *before, *after)
	}
}
