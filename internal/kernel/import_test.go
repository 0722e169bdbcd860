package kernel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/aethervm/aether/internal/boot/boottest"
	"github.com/aethervm/aether/sandbox"
)

// put writes a file of a test's tree.
func put(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// install makes a bzImage and its modules below dir, as a package does, and returns the image. All
// modules that systems need are built in, but for those given and those left out.
func install(t testing.TB, dir, version string, modules map[string][]byte, without ...string) string {
	t.Helper()
	image := filepath.Join(dir, "boot", "vmlinuz-"+version)
	put(t, image, boottest.BzImage(version, boottest.Zstd(boottest.Vmlinux())))
	tree := filepath.Join(dir, "lib/modules", version)
	for name, data := range modules {
		put(t, filepath.Join(tree, "kernel", name), data)
		name, _, _ = strings.Cut(filepath.Base(name), ".")
		without = append(without, name)
	}
	var builtin strings.Builder
	for _, name := range append(wanted(), "virtio") {
		if !slices.Contains(without, name) {
			builtin.WriteString("kernel/somewhere/" + name + ".ko\n")
		}
	}
	put(t, filepath.Join(tree, builtinName), []byte(builtin.String()))
	if err := os.MkdirAll(filepath.Join(tree, "kernel"), 0o755); err != nil {
		t.Fatal(err)
	}
	return image
}

func nothingHalf(t *testing.T, root string) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(root, makingPrefix+"*")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestImportAndFind(t *testing.T) {
	root, source := filepath.Join(t.TempDir(), "kernels"), t.TempDir()
	if _, err := Find(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("find in nothing: %v", err)
	}
	blk := module(t, "name=virtio_blk\x00depends=virtio_ring,virtio\x00")
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, version := range []string{"6.1.9-x", "6.1.10-x"} {
		image := install(t, source, version, map[string][]byte{
			"drivers/block/virtio_blk.ko.zst":  w.EncodeAll(blk, nil),
			"drivers/virtio/virtio_ring.ko":    module(t, "name=virtio_ring\x00depends=\x00"),
			"fs/unwanted.ko":                   module(t, "name=unwanted\x00"),
			"drivers/virtio/virtio_balloon.ko": module(t, "name=virtio_balloon\x00depends=missing\x00"),
		})
		k, err := Import(root, image, filepath.Join(source, "lib/modules", version))
		if err != nil {
			t.Fatal(err)
		}
		if k.Version != version || len(k.Modules) != 3 || !k.PVH {
			t.Errorf("imported %+v", k)
		}
	}
	k, err := Find(root)
	if err != nil || k.Version != "6.1.10-x" {
		t.Fatalf("found %+v, %v", k, err)
	}
	if got, err := os.ReadFile(k.Vmlinux()); err != nil || !bytes.Equal(got, boottest.Vmlinux()) {
		t.Errorf("the kernel's image: %d bytes, %v", len(got), err)
	}
	load := k.Load("virtio-blk")
	if len(load) != 2 || load[0].Name != "virtio_ring" || load[1].Name != "virtio_blk" {
		t.Fatalf("to be loaded: %+v", load)
	}
	if got, err := os.ReadFile(k.ModulePath(load[1])); err != nil || !bytes.Equal(got, blk) {
		t.Errorf("module: %d bytes, %v", len(got), err)
	}
	if n, err := k.Size(); err != nil || n < int64(len(boottest.Vmlinux())+len(blk)) {
		t.Errorf("size %d, %v", n, err)
	}
	// A module whose own dependencies are missing is of no use.
	if got := k.Lacks(); len(got) != 1 || !slices.Equal(got[aetherVM], []string{"virtio_balloon"}) {
		t.Errorf("lacks %v", got)
	}
	if err := Remove(root, "6.1.10"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remove by half a version: %v", err)
	}
	if err := Remove(root, "../kernels"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remove by a path: %v", err)
	}
	if err := Remove(root, "6.1.10-x"); err != nil {
		t.Error(err)
	}
	if k, err := Find(root); err != nil || k.Version != "6.1.9-x" {
		t.Errorf("after the removal: %+v, %v", k, err)
	}
	nothingHalf(t, root)
}

func TestLacks(t *testing.T) {
	whole := Kernel{Builtin: wanted(), PVH: true}
	for name, c := range map[string]struct {
		edit func(*Kernel)
		want map[string][]string
	}{
		"nothing":         {func(*Kernel) {}, map[string][]string{}},
		"not known":       {func(k *Kernel) { k.Builtin, k.PVH = nil, false }, map[string][]string{}},
		"no PVH":          {func(k *Kernel) { k.PVH = false }, map[string][]string{qemu: {pvhEntry}}},
		"a file system":   {func(k *Kernel) { k.drop("erofs") }, map[string][]string{qemu: {"erofs"}, aetherVM: {"erofs"}}},
		"of one system":   {func(k *Kernel) { k.drop("virtio_console") }, map[string][]string{qemu: {"virtio_console"}}},
		"what none needs": {func(k *Kernel) { k.drop("virtio_pci") }, map[string][]string{}},
		"a circle": {func(k *Kernel) {
			k.drop("erofs")
			k.Modules = []Module{{"erofs", []string{"a"}}, {"a", []string{"b"}}, {"b", []string{"a"}}}
		}, map[string][]string{qemu: {"erofs"}, aetherVM: {"erofs"}}},
	} {
		k := whole
		k.Builtin = slices.Clone(whole.Builtin)
		c.edit(&k)
		got, want := k.Lacks(), c.want
		a, errA := json.Marshal(got)
		b, errB := json.Marshal(want)
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: lacks %s, want %s", name, a, b)
		}
	}
}

func (k *Kernel) drop(name string) {
	k.Builtin = slices.DeleteFunc(k.Builtin, func(s string) bool { return s == name })
}

// A kernel that one system can use is kept, and one that none can use is not.
func TestImportRefusesWhatIsOfNoUse(t *testing.T) {
	root, source := filepath.Join(t.TempDir(), "kernels"), t.TempDir()
	_, err := Obtain(t.Context(), root, install(t, source, "6.1.0-bad", nil, "erofs"), "", nil)
	if !errors.Is(err, sandbox.ErrUnsupported) || !strings.Contains(err.Error(), "qemu-kvm needs erofs") {
		t.Errorf("without erofs: %v", err)
	}
	if _, err := Obtain(t.Context(), root, install(t, source, "6.1.0-half", nil, "virtio_console"), "", nil); err != nil {
		t.Errorf("without the console: %v", err)
	}
	if all, err := List(root); err != nil || len(all) != 1 {
		t.Errorf("kept: %+v, %v", all, err)
	}
	nothingHalf(t, root)
}

func TestImageVersion(t *testing.T) {
	const want = "6.1.0-56-cloud-amd64"
	vmlinux := append(boottest.VmlinuxOf(want), "Linux version 5.0 (later)"...)
	for name, image := range map[string][]byte{
		"bzImage":        boottest.BzImage(want, nil),
		"vmlinux":        vmlinux,
		"after a format": append(append([]byte("\x7fELF"), "Linux version %s (%s)\x00"...), vmlinux...),
	} {
		if v, err := imageVersion(image); v != want || err != nil {
			t.Errorf("%s: got %q, %v", name, v, err)
		}
	}
	for _, bad := range []string{"", "../../etc", ".hidden", "a/b"} {
		for _, image := range [][]byte{boottest.BzImage(bad, nil), boottest.VmlinuxOf(bad)} {
			if v, err := imageVersion(image); !errors.Is(err, ErrFormat) {
				t.Errorf("version %q: got %q, %v", bad, v, err)
			}
		}
	}
	if v, err := imageVersion([]byte("#!/bin/sh\n")); !errors.Is(err, ErrFormat) {
		t.Errorf("no kernel: got %q, %v", v, err)
	}
}

func FuzzImageVersion(f *testing.F) {
	f.Add(boottest.BzImage("6.1.0-x", boottest.Zstd(boottest.Vmlinux())))
	f.Add(boottest.VmlinuxOf("6.1.0-x"))
	f.Fuzz(func(t *testing.T, image []byte) {
		if v, err := imageVersion(image); err == nil && !validVersion(v) {
			t.Errorf("version %q", v)
		}
	})
}

func TestImportEndsWithContext(t *testing.T) {
	root := filepath.Join(t.TempDir(), "kernels")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	image := install(t, t.TempDir(), "6.1.0-x", nil)
	if _, err := Obtain(ctx, root, image, "", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Obtain = %v", err)
	}
	if all, err := List(root); err != nil || len(all) != 0 {
		t.Errorf("kept: %+v, %v", all, err)
	}
	nothingHalf(t, root)
}
