// Package kernel provides guest kernels: stock distribution kernels, taken apart into what a
// microVM needs, an uncompressed vmlinux and a handful of modules. They are kept below
// hostdir.State()/kernels, one directory a version, shared by all drivers and never changed.
package kernel

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/aethervm/aether/internal/boot"
)

// ErrFormat is wrapped by errors about files that are not what they should be.
var ErrFormat = boot.ErrFormat

// Kernel is one guest kernel on disk.
type Kernel struct {
	// Version is what `uname -r` prints in the guest.
	Version string `json:"version"`
	// Modules are those available, in no particular order; see Load.
	Modules []Module `json:"modules"`
	// Builtin are those of the modules that systems need that the kernel has built in. It is nil if
	// nobody looked, as in stores of older releases.
	Builtin []string `json:"builtin"`
	// PVH tells whether the kernel has the entry point by which QEMU starts an uncompressed kernel.
	PVH bool `json:"pvh"`

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
)

// Vmlinux is the path of the kernel as an ELF file.
func (k Kernel) Vmlinux() string { return filepath.Join(k.dir, imageName) }

// ModulePath is the path of a module's file.
func (k Kernel) ModulePath(m Module) string { return filepath.Join(k.dir, m.Name+".ko") }

// Size is the space that the kernel's files take on disk, in bytes.
func (k Kernel) Size() (int64, error) {
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return 0, fmt.Errorf("size of guest kernel: %w", err)
	}
	var n int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return 0, fmt.Errorf("size of guest kernel: %w", err)
		}
		n += info.Size()
	}
	return n, nil
}

// Load returns the named modules and what they depend on, in an order in which they can be loaded.
// Names that the kernel has built in are left out.
func (k Kernel) Load(names ...string) []Module { return order(k.modules(), names) }

func (k Kernel) modules() map[string]Module {
	have := map[string]Module{}
	for _, m := range k.Modules {
		have[m.Name] = m
	}
	return have
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

// validVersion keeps a version from being anything but one plain element of a path.
func validVersion(v string) bool {
	if v == "" || v[0] == '.' || len(v) > 128 {
		return false
	}
	for _, c := range v {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		case c == '.', c == '-', c == '+', c == '_', c == '~':
		default:
			return false
		}
	}
	return true
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
