package kernel

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

// Names of systems, as package vms has them.
const (
	aetherVM = "aethervm"
	qemu     = "qemu-kvm"
)

// needs are the modules that the guests of each system cannot do without, built in or not.
var needs = map[string][]string{
	aetherVM: {
		"virtio_mmio", "virtio_blk", "virtio_rng", "virtio_balloon", "virtio_net", "erofs", "overlay",
		"vmw_vsock_virtio_transport",
	},
	qemu: {"virtio_mmio", "virtio_blk", "virtio_console", "erofs", "overlay"},
}

// Systems returns the names of the systems whose guests boot kernels of this package, sorted.
func Systems() []string { return slices.Sorted(maps.Keys(needs)) }

// wanted are the modules kept of each kernel, so that a system that comes later finds them: what
// needs names and the other usual bus. Those that a kernel lacks are left out.
func wanted() []string {
	names := []string{"virtio_pci"}
	for _, list := range needs {
		names = append(names, list...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// pvhEntry is how the lack of one is called.
const pvhEntry = "a PVH entry point"

// Lacks returns what systems need that the kernel does not have, by the system's name: modules, and
// what "a PVH entry point" says. Systems that it can serve are not in it. It is empty for a kernel
// whose built-in modules are not known.
func (k Kernel) Lacks() map[string][]string {
	lacks := map[string][]string{}
	if k.Builtin == nil {
		return lacks
	}
	have := k.modules()
	for system, names := range needs {
		for _, name := range names {
			if !k.usable(have, name, len(have)) {
				lacks[system] = append(lacks[system], name)
			}
		}
	}
	if !k.PVH {
		lacks[qemu] = append(lacks[qemu], pvhEntry)
	}
	return lacks
}

// usable tells whether a module is there with all that it depends on, over at most depth steps: a
// chain that is longer than there are modules is a circle.
func (k Kernel) usable(have map[string]Module, name string, depth int) bool {
	if slices.Contains(k.Builtin, name) {
		return true
	}
	m, ok := have[name]
	if !ok || depth < 0 {
		return false
	}
	return !slices.ContainsFunc(m.Depends, func(dep string) bool { return !k.usable(have, dep, depth-1) })
}

// check refuses a kernel that no system can use.
func (k Kernel) check() error {
	lacks := k.Lacks()
	if len(lacks) < len(needs) {
		return nil
	}
	var parts []string
	for _, system := range slices.Sorted(maps.Keys(lacks)) {
		parts = append(parts, fmt.Sprintf("%s needs %s", system, strings.Join(lacks[system], ", ")))
	}
	return &sandbox.Error{Op: "look for what guests need", Err: sandbox.ErrUnsupported,
		Detail: "no system can use " + k.Version + ", which lacks what they need: " + strings.Join(parts, "; "),
		Remedy: "choose a kernel that has it, built in or as modules: `aether kernel import debian:bookworm-backports`"}
}
