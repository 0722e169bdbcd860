package aethervm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// tmpfs mounts a file system in memory, until it is unmounted or the test is over.
func tmpfs(t *testing.T, dir, options string) {
	t.Helper()
	testenv.Root(t)
	if err := unix.Mount("test", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// makeTemplate does to a store what the making of a template does, with a machine of so many pages.
func makeTemplate(ctx context.Context, name string, pages int) (digest string, err error) {
	store, err := openTemplates()
	if err != nil {
		return "", err
	}
	place, err := store.begin(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, place.abandon()) }()
	w, err := snapshot.Create(filepath.Join(place.dir, machineName))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.Abort()) }()
	memory := bytes.Repeat([]byte(name), pages*snapshot.PageSize/len(name)+1)
	if _, err := w.WriteMemory(ctx, []snapshot.Extent{{Size: uint64(pages) * snapshot.PageSize, Source: bytes.NewReader(memory)}}); err != nil {
		return "", err
	}
	sum, err := w.Finish(snapshot.About{MemoryMiB: 1}, nil, nil)
	if err != nil {
		return "", err
	}
	f, err := snapshot.OpenRegular(filepath.Join(place.dir, machineName))
	if err != nil {
		return "", err
	}
	defer f.Close()
	s, err := stampOf(f, snapshot.Digest(sum))
	if err != nil {
		return "", err
	}
	if err := s.write(place.dir, stampName); err != nil {
		return "", err
	}
	return s.Digest, place.publish(ctx, sandbox.Template{System: System, Name: name, Digest: s.Digest, Spec: sandbox.Spec{Image: sandbox.Image{Rootfs: "/x"}}})
}

// A disk that is full at any place of the making of a template: the template is not there and nothing is left of it, also where there
// was an older one of the name, which stays.
func TestTemplateSmallDisk(t *testing.T) {
	const pages = 8
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AETHER_STATE", dir)
	for _, resource := range []struct {
		option string
		unit   int
	}{{"size", os.Getpagesize()}, {"nr_inodes", 1}} {
		for _, older := range []bool{false, true} {
			refused, free := 0, 0
			for whole := false; !whole; free++ {
				if free > 200 {
					t.Fatal("there is never room enough")
				}
				what := fmt.Sprintf("%s: %d free, older: %v", resource.option, free, older)
				tmpfs(t, dir, "")
				var old string
				if older {
					var err error
					if old, err = makeTemplate(t.Context(), "old", pages); err == nil {
						err = os.Rename(filepath.Join(dir, "templates", System, namesName, "old"), filepath.Join(dir, "templates", System, namesName, "new"))
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				var st unix.Statfs_t
				if err := unix.Statfs(dir, &st); err != nil {
					t.Fatal(err)
				}
				used := (st.Blocks - st.Bfree) * uint64(st.Bsize) / uint64(resource.unit)
				if resource.option == "nr_inodes" {
					used = st.Files - st.Ffree
				}
				limit := fmt.Sprintf("%s=%d", resource.option, (int(used)+free)*resource.unit)
				if used == 0 && free == 0 { // which would be no limit
					limit = fmt.Sprintf("%s=1", resource.option)
				}
				if err := unix.Mount("test", dir, "tmpfs", unix.MS_REMOUNT, limit); err != nil {
					t.Fatal(err)
				}
				digest, err := makeTemplate(t.Context(), "new", pages)
				whole = err == nil
				if err != nil {
					refused++
					if !errors.Is(err, unix.ENOSPC) {
						t.Errorf("%s: %v", what, err)
					}
				}
				lookAtStore(t, what, dir, digest, old, whole)
				if err := unix.Unmount(dir, 0); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%s, older: %v: refused %d times", resource.option, older, refused)
			if refused < 2 {
				t.Errorf("%s, older: %v: refused %d times only", resource.option, older, refused)
			}
		}
	}
}

// lookAtStore checks that there is the template that there should be, and nothing else.
func lookAtStore(t *testing.T, what, dir, digest, old string, whole bool) {
	t.Helper()
	want := old
	if whole {
		want = digest
	}
	root := filepath.Join(dir, "templates", System)
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if n := e.Name(); n != namesName && n != lockName && (want == "" || n != contentName(want)) {
			t.Errorf("%s: %s is left", what, n)
		}
	}
	if want == "" {
		return
	}
	_, _, f, err := (&templates{dir: root}).open(t.Context(), "open", "new")
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if err := errors.Join(f.Verify(t.Context()), f.Close()); err != nil || f.Digest() != want {
		t.Errorf("%s: %s in place of %s, %v", what, f.Digest(), want, err)
	}
}
