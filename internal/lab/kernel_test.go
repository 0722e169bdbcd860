package lab

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/kernel"
	"github.com/aethervm/aether/sandbox"
)

func TestWithKernel(t *testing.T) {
	dir, state := fakeBase(t)
	built, err := Build(t.Context(), dir, state, nil)
	if err != nil {
		t.Fatal(err)
	}
	same, err := built.WithKernel(DefaultKernel)
	if err != nil || same.kernel != built.Base || same.Kernel != built.Kernel || !slices.Equal(same.late, lateModules) {
		t.Errorf("the default: %+v, %v", same, err)
	}
	if _, err := built.WithKernel("5.4"); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("one that is not known: %v", err)
	}
	if err := BuildKernel(t.Context(), dir, "5.4", nil); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("build one that is not known: %v", err)
	}
	var known *sandbox.Error
	if _, err := built.WithKernel("6.12"); !errors.Is(err, sandbox.ErrUnavailable) || !errors.As(err, &known) ||
		!strings.Contains(known.Remedy, "aether lab build --kernel 6.12") {
		t.Errorf("before it is built: %v", err)
	}
	name := kernelPrefix + kernelKey("6.12")
	stale := kernelPrefix + "6.12-0"
	if err := errors.Join(
		os.Mkdir(filepath.Join(dir, name), 0o755), os.Mkdir(filepath.Join(dir, stale), 0o755),
		writeJSON(filepath.Join(dir, name, manifestName), manifest{Kernel: "6.12.1-x", Early: []string{"kvm.ko"}}),
	); err != nil {
		t.Fatal(err)
	}
	// What is there takes no mirror.
	if err := BuildKernel(t.Context(), dir, "6.12", nil); err != nil {
		t.Errorf("build again: %v", err)
	}
	if built, err = Build(t.Context(), dir, state, nil); err != nil {
		t.Fatal(err)
	}
	other, err := built.WithKernel("6.12")
	if err != nil || other.kernel != name || other.Kernel != "6.12.1-x" || !slices.Equal(other.early, []string{"kvm.ko"}) || len(other.late) > 0 {
		t.Errorf("got %+v, %v", other, err)
	}
	if other.Base != built.Base || other.Peers != built.Peers {
		t.Errorf("all else has changed: %+v", other)
	}
	if _, err := os.Stat(filepath.Join(dir, stale)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("one that was made in another way: %v", err)
	}
	if err := writeJSON(filepath.Join(dir, name, manifestName), manifest{Early: []string{"../x"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := built.WithKernel("6.12"); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Errorf("a module elsewhere: %v", err)
	}
}

func TestKeepKernel(t *testing.T) {
	state := t.TempDir()
	source := filepath.Join(state, "6.12.1-x")
	if err := errors.Join(
		os.Mkdir(source, 0o755),
		os.WriteFile(filepath.Join(source, "kernel.json"), []byte(`{"version": "6.12.1-x", "modules": [
			{"name": "kvm_amd", "depends": ["kvm"]}, {"name": "kvm"}, {"name": "erofs"}, {"name": "virtio_rng"}]}`), 0o644),
		os.WriteFile(filepath.Join(source, "vmlinux"), []byte("kernel"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kvm", "kvm_amd", "erofs", "virtio_rng"} {
		if err := os.WriteFile(filepath.Join(source, name+".ko"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kernels, err := kernel.List(state)
	if err != nil || len(kernels) != 1 {
		t.Fatal(kernels, err)
	}
	dir := filepath.Join(t.TempDir(), "kernel")
	if err := keepKernel(dir, kernels[0]); err != nil {
		t.Fatal(err)
	}
	m, err := readManifest(dir)
	if want := []string{"erofs.ko", "kvm.ko", "kvm_amd.ko"}; err != nil || m.Kernel != "6.12.1-x" || !slices.Equal(m.Early, want) {
		t.Errorf("%+v, %v; want modules %q", m, err, want)
	}
	for _, file := range []string{vmlinuxName, "modules/erofs.ko", "modules/kvm.ko", "modules/kvm_amd.ko"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Error(err)
		}
	}
}

// TestRunKernel runs the lab with each kernel that was built for it.
func TestRunKernel(t *testing.T) {
	image, initPath := requireLab(t)
	for _, version := range Kernels() {
		other, err := image.WithKernel(version)
		if errors.Is(err, sandbox.ErrUnavailable) {
			t.Logf("%s: %v", version, err) // it needs a build of its own
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		r, stdout, stderr := runLab(t, other, Config{Init: initPath, Args: []string{"sh", "-c", "uname -r; test -c /dev/kvm; test -c /dev/net/tun"}})
		if r.Code != 0 || strings.TrimSpace(stdout) != other.Kernel || !strings.HasPrefix(stdout, version+".") {
			t.Errorf("%s: %+v, %q, %q", version, r, stdout, stderr)
		}
	}
}
