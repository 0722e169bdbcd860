package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// fakeBase makes a directory that has a base and an emulator of the current recipe already, which take a
// Debian mirror to make, and a state directory with something to collect.
func fakeBase(t *testing.T) (dir, state string) {
	t.Helper()
	if _, err := findTool("mkfs.erofs", "erofs-utils"); err != nil {
		testenv.Require(t, "LAB", err.Error())
	}
	dir, state = t.TempDir(), t.TempDir()
	base, emulator := filepath.Join(dir, basePrefix+baseKey()), filepath.Join(dir, emulatorPrefix+emulatorKey())
	err := errors.Join(
		os.Mkdir(base, 0o755),
		writeJSON(filepath.Join(base, manifestName), manifest{Kernel: "6.1", Early: []string{"a.ko"}}),
		os.WriteFile(filepath.Join(base, vmlinuxName), []byte("kernel"), 0o644),
		os.WriteFile(filepath.Join(base, diskName), []byte("disk"), 0o644),
		os.Mkdir(emulator, 0o755),
		os.WriteFile(filepath.Join(emulator, qemuBinary), []byte("emulator"), 0o755),
		os.MkdirAll(filepath.Join(state, "kernels/6.1"), 0o755),
		os.MkdirAll(filepath.Join(state, "bin"), 0o755),
		os.WriteFile(filepath.Join(state, "bin/runsc"), []byte("one"), 0o755),
	)
	if err != nil {
		t.Fatal(err)
	}
	return dir, state
}

func TestBuild(t *testing.T) {
	dir, state := fakeBase(t)
	if _, err := Open(dir); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Fatalf("before the first build: %v", err)
	}
	// A build that died left its lease; no process holds it.
	if err := os.MkdirAll(filepath.Join(dir, tmpName, "dead/root"), 0o755); err != nil {
		t.Fatal(err)
	}
	var images [3]Image
	var errs [3]error
	var wg sync.WaitGroup
	for i := range images {
		wg.Go(func() { images[i], errs[i] = Build(t.Context(), dir, state, nil) })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	first := images[0]
	if images[1].Peers != first.Peers || images[2].Created != first.Created || first.Kernel != "6.1" || first.Bytes <= int64(len("kernel")+len("disk")) {
		t.Errorf("three at once built %+v", images)
	}
	if left, err := os.ReadDir(filepath.Join(dir, tmpName)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	if err := os.WriteFile(filepath.Join(state, "bin/runsc"), []byte("two"), 0o755); err != nil {
		t.Fatal(err)
	}
	second, err := Build(t.Context(), dir, state, nil)
	if err != nil || second.Peers == first.Peers || second.Base != first.Base {
		t.Errorf("after a change: %+v, %v", second, err)
	}
	if _, err := os.Stat(filepath.Join(dir, first.Peers)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old image: %v", err)
	}
	if opened, err := Open(dir); err != nil || opened.Peers != second.Peers || len(opened.early) != 1 {
		t.Errorf("opened %+v, %v", opened, err)
	}
}

func TestBuildCutShort(t *testing.T) {
	dir, state := fakeBase(t)
	cut := errors.New("cut short")
	for _, where := range []string{"collect guest images, kernels and runsc", "write the disk image of peers"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := Build(ctx, dir, state, func(phase string) {
			if phase == where {
				cancel(cut)
			}
		})
		if !errors.Is(err, cut) {
			t.Errorf("%s: %v", where, err)
		}
		if _, err := Open(dir); !errors.Is(err, sandbox.ErrUnavailable) {
			t.Errorf("%s: a lab is there: %v", where, err)
		}
		if left, err := os.ReadDir(filepath.Join(dir, tmpName)); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v", where, left, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir, state := fakeBase(t)
	built, err := Build(t.Context(), dir, state, nil)
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(dir, built.Base)
	other, olderQEMU, away, bad := built, built, built, manifest{Kernel: "6.1", Early: []string{"../../x"}}
	other.Base, olderQEMU.Emulator, away.Peers = "base-0", "emulator-0", "../peers"
	for name, damage := range map[string]func() error{
		"no JSON":         func() error { return os.WriteFile(filepath.Join(dir, setName), []byte("{"), 0o644) },
		"another version": func() error { return writeJSON(filepath.Join(dir, setName), other) },
		"another QEMU":    func() error { return writeJSON(filepath.Join(dir, setName), olderQEMU) },
		"another place":   func() error { return writeJSON(filepath.Join(dir, setName), away) },
		"no base": func() error {
			return errors.Join(writeJSON(filepath.Join(dir, setName), built), os.Remove(filepath.Join(base, manifestName)))
		},
		"a module elsewhere": func() error {
			return errors.Join(writeJSON(filepath.Join(dir, setName), built), writeJSON(filepath.Join(base, manifestName), bad))
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if i, err := Open(dir); !errors.Is(err, sandbox.ErrUnavailable) {
			t.Errorf("%s: %+v, %v", name, i, err)
		}
	}
}
