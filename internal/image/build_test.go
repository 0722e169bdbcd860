package image_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

func TestConcurrentBuilds(t *testing.T) {
	s := newStore(t)
	a := save(t, "a.tar", archive(t, sample()...))
	b := save(t, "b.tar", archive(t, file("b", "b")))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			source := a
			if i%4 == 3 {
				source = b
			}
			if _, err := s.Build(t.Context(), fmt.Sprintf("n%d", i), source, nil); err != nil {
				t.Error(err)
			}
			if _, err := s.Resolve(fmt.Sprintf("n%d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list, err := s.List(); err != nil || len(list) != 2 || len(list[0].Names)+len(list[1].Names) != 8 {
		t.Errorf("List = %+v, %v; want two images with eight names", list, err)
	}
	wantNoRest(t, s)
}

func TestKilledBuildLeavesNothing(t *testing.T) {
	s := newStore(t)
	source := save(t, "a.tar", archive(t, sample()...))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"=stuck", storeEnv+"="+s.Dir(), sourceEnv+"="+source)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "unpacked\n" {
		t.Fatalf("helper: %q, %v", line, err)
	}
	if n, err := s.Sweep(); n != 0 || err != nil {
		t.Errorf("Sweep while the builder lives = %d, %v", n, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("List = %v, %v", list, err)
	}
	if entries, _ := os.ReadDir(filepath.Join(s.Dir(), "tmp")); len(entries) != 1 {
		t.Errorf("the killed builder left %v; the test wants one directory", entries)
	}
	build(t, s, "next", source) // sweeps
	wantNoRest(t, s)
}

func TestCancelledBuild(t *testing.T) {
	s := newStore(t)
	source := save(t, "a.tar", archive(t, sample()...))
	for _, phase := range []string{"open", "unpack", "digest"} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := s.Build(ctx, "x", source, func(p image.Progress) {
			if p.Phase == phase {
				cancel()
			}
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled in phase %s: %v", phase, err)
		}
		wantEmpty(t, s)
	}
}

func TestProgress(t *testing.T) {
	source := save(t, "a.tar", archive(t, sample()...))
	var phases []string
	if _, err := newStore(t).Build(t.Context(), "x", source, func(p image.Progress) {
		if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
			phases = append(phases, p.Phase)
		}
		if p.Phase == "unpack" {
			if info, err := os.Stat(source); err != nil || p.Total != info.Size() || p.Done > p.Total {
				t.Errorf("progress %+v, %v", p, err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"open", "unpack", "digest", "store"}; !slices.Equal(phases, want) {
		t.Errorf("phases %v, want %v", phases, want)
	}
}

func TestNoSpace(t *testing.T) {
	testenv.Root(t)
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=2m"); err != nil {
		testenv.Require(t, "MOUNT", err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	s := image.Open(filepath.Join(mount, "images"))
	_, err := s.Build(t.Context(), "x", save(t, "x.tar", archive(t, file("big", strings.Repeat("x", 4<<20)))), nil)
	if e, ok := errors.AsType[*sandbox.Error](err); !errors.Is(err, sandbox.ErrNoSpace) || !ok || e.Remedy == "" {
		t.Errorf("Build on a full disk: %v", err)
	}
	wantEmpty(t, s)
	build(t, s, "small", save(t, "y.tar", archive(t, file("small", "x"))))
}

func TestWithoutRoot(t *testing.T) {
	testenv.Root(t)
	// Directories of the test belong to root; this one must not.
	home, err := os.MkdirTemp("/tmp", "ae-") //nolint:usetesting // t.TempDir lies below a directory of mode 0700
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	const nobody = 65534
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	locked := file("locked/f", "x")
	locked.Mode, locked.Uid = 0, 1000
	source := filepath.Join(home, "x.tar")
	if err := os.WriteFile(source, archive(t, dir("locked", 0), locked, file("open", "y")), 0o644); err != nil {
		t.Fatal(err)
	}
	helper := filepath.Join(home, "helper")
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(helper, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(helper)
	cmd.Env = append(os.Environ(), helperEnv+"=unprivileged", storeEnv+"="+filepath.Join(home, "images"), sourceEnv+"="+source)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	cmd.Dir = home
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// unprivileged is TestWithoutRoot seen from the user.
func unprivileged(s *image.Store, source string) error {
	ctx := context.Background()
	e, err := s.Build(ctx, "x", source, nil)
	if err != nil {
		return err
	}
	if len(e.Notes) != 2 {
		return fmt.Errorf("notes %q; want one about owners and one about modes", e.Notes)
	}
	img, err := s.Resolve("x")
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := image.Tar(ctx, img, &out); err != nil {
		return err
	}
	for tr := tar.NewReader(&out); ; {
		hdr, err := tr.Next()
		if err != nil {
			break
		}
		if hdr.Uid != 0 || hdr.Gid != 0 {
			return fmt.Errorf("%s belongs to %d:%d; want root", hdr.Name, hdr.Uid, hdr.Gid)
		}
	}
	if again, err := s.Build(ctx, "again", img.Rootfs, nil); err != nil || again.Digest != e.Digest {
		return fmt.Errorf("from its own tree: %v, %w", again, err)
	}
	if err := s.Remove(ctx, e.Digest); err != nil {
		return err
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		return fmt.Errorf("after Remove: %v, %w", list, err)
	}
	return nil
}
