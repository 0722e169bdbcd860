package cell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/testenv"
)

// unharmed checks that an order has left nothing and that the parent goes on.
func (o *faultOwner) unharmed(t *testing.T, what string, files int) {
	t.Helper()
	if err := o.pulse.beats(o.parent, false); err != nil {
		t.Fatalf("%s: the parent: %v", what, err)
	}
	if left := o.left(); left != "" {
		t.Fatalf("%s: left: %s", what, left)
	}
	if after := openFiles(); len(after) != files {
		t.Fatalf("%s: %d descriptors, %d before: %s", what, len(after), files, after)
	}
}

func (o *faultOwner) limited(t *testing.T, what string, order func(context.Context) error, want ...error) (whole bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := order(ctx)
	if err != nil && !slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) {
		t.Errorf("%s: %v", what, err)
	}
	return err == nil
}

// An owner with room for one more descriptor, for two, and so on, until there is enough: each order is refused for that, or done.
func TestFewDescriptors(t *testing.T) {
	o := newKillsOwner(t)
	files := len(openFiles())
	for name, order := range map[string]func(context.Context) error{
		"start": o.start, "branch": o.branch, "fork": o.fork, "save": o.save, "restore": o.restore,
	} {
		refused := 0
		for n := 1; ; n++ {
			if n > 100 {
				t.Fatalf("%s: there is never room enough", name)
			}
			what := fmt.Sprintf("%s with room for %d", name, n)
			more := testenv.FewFiles(t, n)
			whole := o.limited(t, what, order, unix.EMFILE)
			more()
			o.unharmed(t, what, files)
			if whole {
				break
			}
			refused++
		}
		t.Logf("%s: refused %d times", name, refused)
		if refused == 0 {
			t.Errorf("%s: never refused", name)
		}
	}
}

// The cell that is branched has few descriptors, as one whose guest has many flows open: the branch is refused, and the guest
// goes on.
func TestFewDescriptorsInCell(t *testing.T) {
	o := newKillsOwner(t)
	files := len(openFiles())
	dir := fmt.Sprintf("/proc/%d/fd", o.parent.PID())
	refused := 0
	for limit := 4; ; limit++ {
		if limit > count(t, dir)+20 {
			t.Fatal("there is never room enough")
		}
		what := fmt.Sprintf("limit %d of %d open", limit, count(t, dir))
		var old unix.Rlimit
		if err := unix.Prlimit(o.parent.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(limit), Max: 2048}, &old); err != nil {
			t.Fatal(err)
		}
		whole := o.limited(t, what, o.branch, unix.EMFILE)
		if err := unix.Prlimit(o.parent.PID(), unix.RLIMIT_NOFILE, &old, nil); err != nil {
			t.Fatal(err)
		}
		o.unharmed(t, what, files)
		if whole {
			break
		}
		refused++
	}
	t.Logf("refused %d times", refused)
	if refused == 0 {
		t.Error("never refused")
	}
}

// A disk of one page, of two, and so on, until a snapshot has room: each is refused for want of space, and nothing is left of it.
func TestSmallDisk(t *testing.T) {
	o := newKillsOwner(t)
	files := len(openFiles())
	restore := filepath.Join(o.dir, "machine")
	o.dir = filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(o.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for pages := 1; ; pages += 1 + pages/16 {
		if pages > 1<<14 {
			t.Fatal("there is never room enough")
		}
		tmpfs(t, o.dir, fmt.Sprintf("size=%d", pages*os.Getpagesize()))
		what := fmt.Sprintf("%d pages", pages)
		whole := o.limited(t, what, o.save, unix.ENOSPC)
		o.unharmed(t, what, files)
		if whole {
			break
		}
		refused++
		if err := unix.Unmount(o.dir, 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("refused %d times", refused)
	if refused < 3 {
		t.Errorf("refused %d times only", refused)
	}
	if err := unix.Unmount(o.dir, 0); err != nil {
		t.Fatal(err)
	}
	tmpfs(t, o.dir, "nr_inodes=1")
	if o.limited(t, "no inode", o.save, unix.ENOSPC) {
		t.Error("a file without an inode")
	}
	o.unharmed(t, "no inode", files)
	if err := unix.Unmount(o.dir, 0); err != nil {
		t.Fatal(err)
	}
	o.dir = filepath.Dir(restore)
	if err := o.restore(t.Context()); err != nil {
		t.Error(err)
	}
}

// tmpfs mounts a file system in memory, until it is unmounted or the test is over.
func tmpfs(t *testing.T, dir, options string) {
	t.Helper()
	testenv.Root(t)
	if err := unix.Mount("test", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}
