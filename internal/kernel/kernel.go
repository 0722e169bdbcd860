// Package kernel provides guest kernels: stock distribution kernels, taken apart into what a
// microVM needs, an uncompressed vmlinux and a handful of modules. They are kept below
// hostdir.State()/kernels, one directory a version, shared by all drivers and never changed.
package kernel

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// wanted are the modules kept of each kernel: transports, devices and file systems that guests are
// given. Those that a kernel has built in, or lacks, are left out.
var wanted = []string{
	"virtio_mmio", "virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "virtio_rng",
	"virtio_balloon", "vmw_vsock_virtio_transport", "erofs", "overlay",
}

// Kernel is one guest kernel on disk.
type Kernel struct {
	// Version is what `uname -r` prints in the guest.
	Version string `json:"version"`
	// Modules are those available, by no particular order; see Load.
	Modules []Module `json:"modules"`

	dir string
}

// Module is a kernel module. Its file is at Kernel.ModulePath, uncompressed.
type Module struct {
	Name    string   `json:"name"`
	Depends []string `json:"depends,omitempty"`
}

const (
	manifestName = "kernel.json"
	imageName    = "vmlinux"
	makingPrefix = ".new-"
	// What a process has been making for so long, it died over.
	makingGrace = time.Hour
)

// Vmlinux is the path of the kernel as an ELF file with a PVH entry point.
func (k Kernel) Vmlinux() string { return filepath.Join(k.dir, imageName) }

// ModulePath is the path of a module's file.
func (k Kernel) ModulePath(m Module) string { return filepath.Join(k.dir, m.Name+".ko") }

// Load returns the named modules and what they depend on, in an order in which they can be loaded.
// Names that the kernel has built in are left out.
func (k Kernel) Load(names ...string) []Module {
	have := map[string]Module{}
	for _, m := range k.Modules {
		have[m.Name] = m
	}
	return order(have, names)
}

// Find returns the newest kernel kept below root; fs.ErrNotExist is wrapped if there is none.
func Find(root string) (Kernel, error) {
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Kernel{}, fmt.Errorf("find a guest kernel: %w", err)
	}
	var best Kernel
	for _, e := range entries {
		if !e.IsDir() || !validVersion(e.Name()) {
			continue
		}
		k, err := open(filepath.Join(root, e.Name()))
		if err != nil {
			return Kernel{}, err
		}
		if best.Version == "" || compareVersions(k.Version, best.Version) > 0 {
			best = k
		}
	}
	if best.Version == "" {
		return Kernel{}, fmt.Errorf("find a guest kernel in %s: %w", root, fs.ErrNotExist)
	}
	return best, nil
}

// open reads the manifest of a kernel on disk.
func open(dir string) (Kernel, error) {
	data, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		return Kernel{}, fmt.Errorf("open guest kernel: %w", err)
	}
	k := Kernel{dir: dir}
	if err := json.Unmarshal(data, &k); err != nil {
		return Kernel{}, fmt.Errorf("open guest kernel %s: %w", dir, err)
	}
	for _, m := range k.Modules {
		if !validVersion(m.Name) {
			return Kernel{}, fmt.Errorf("open guest kernel %s: %w: module %q", dir, ErrFormat, m.Name)
		}
	}
	return k, nil
}

// Import takes apart the kernel in the file image (a bzImage such as /boot/vmlinuz-VERSION, with
// its modules in the directory modules, such as /lib/modules/VERSION) and keeps it below root. A
// version that is there already is left as it is.
func Import(root, image, modules string) (Kernel, error) {
	fail := func(err error) (Kernel, error) {
		return Kernel{}, fmt.Errorf("import guest kernel %s: %w", image, err)
	}
	data, err := os.ReadFile(image)
	if err != nil {
		return fail(err)
	}
	version, err := imageVersion(data)
	if err != nil {
		return fail(err)
	}
	final := filepath.Join(root, version)
	if k, err := open(final); err == nil {
		return k, nil
	}
	vmlinux, err := unpackImage(data)
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fail(err)
	}
	removeStale(root)
	making, err := os.MkdirTemp(root, makingPrefix)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.RemoveAll(making) }() // gone by the rename if all went well
	k := Kernel{Version: version, dir: making}
	if err := k.fill(vmlinux, modules); err != nil {
		return fail(err)
	}
	if err := os.Rename(making, final); err != nil {
		if other, openErr := open(final); openErr == nil { // another process was faster
			return other, nil
		}
		return fail(err)
	}
	k.dir = final
	return k, nil
}

// fill writes the kernel's files to k.dir, the manifest last.
func (k *Kernel) fill(vmlinux []byte, modules string) error {
	if err := os.Chmod(k.dir, 0o755); err != nil {
		return err
	}
	t, err := openTree(modules)
	if err != nil {
		return err
	}
	names := slices.Clone(wanted)
	for i := 0; i < len(names); i++ { // grows by the dependencies
		name := names[i]
		if t.builtin[name] || t.files[name] == "" || slices.ContainsFunc(k.Modules, func(m Module) bool { return m.Name == name }) {
			continue
		}
		data, err := t.load(name)
		if err != nil {
			return err
		}
		info, err := readModinfo(data)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		m := Module{Name: name, Depends: info.Depends}
		if err := os.WriteFile(k.ModulePath(m), data, 0o644); err != nil {
			return err
		}
		k.Modules = append(k.Modules, m)
		names = append(names, info.Depends...)
	}
	if err := os.WriteFile(k.Vmlinux(), vmlinux, 0o644); err != nil {
		return err
	}
	manifest, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(k.dir, manifestName), manifest, 0o644)
}

// removeStale removes what processes that died left half-made.
func removeStale(root string) {
	stale, _ := filepath.Glob(filepath.Join(root, makingPrefix+"*"))
	for _, dir := range stale {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > makingGrace {
			_ = os.RemoveAll(dir)
		}
	}
}

// compareVersions orders releases as a reader would: numbers by value, the rest as text.
func compareVersions(a, b string) int {
	split := func(s string) []string {
		return strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(".-+~_", r) })
	}
	return slices.CompareFunc(split(a), split(b), func(x, y string) int {
		m, errM := strconv.Atoi(x)
		n, errN := strconv.Atoi(y)
		if errM == nil && errN == nil {
			return cmp.Compare(m, n)
		}
		return strings.Compare(x, y)
	})
}
