// Package vms knows the seven systems that can hold an agent's tool calls: their names, a profile of
// each on five axes, a ranking and a comparison.
//
// A profile is [Evidence] and the scores that the rubric computes from it; nothing is scored by hand.
// The curated evidence ([VM.Profile], [Rank]) comes from published sources, so everything here
// answers offline. Measured evidence ([Measured], [NewProfile], [RankProfiles]) is scored by the same
// functions. docs/RUBRIC.md gives the reason of each scale and its weak points.
//
// The package is data and arithmetic: it depends on the standard library only, keeps no state, and
// all of it may be used concurrently.
package vms

import (
	"fmt"
	"strings"
)

// VM is one of the seven systems. The zero value is none of them.
type VM uint8

// The systems in their fixed order.
const (
	AetherVM VM = iota + 1
	Firecracker
	CloudHypervisor
	GVisor
	Kata
	QEMUKVM
	Docker
)

// system is what is known of a VM by its number.
type system struct {
	name    string
	display string
	aliases []string
}

var systems = [...]system{
	AetherVM:        {"aethervm", "AetherVM", []string{"aether", "hypermachine"}},
	Firecracker:     {"firecracker", "Firecracker", []string{"fc"}},
	CloudHypervisor: {"cloud-hypervisor", "Cloud Hypervisor", []string{"cloudhv", "chv"}},
	GVisor:          {"gvisor", "gVisor", []string{"runsc"}},
	Kata:            {"kata", "Kata Containers", []string{"kata-containers"}},
	QEMUKVM:         {"qemu-kvm", "QEMU/KVM", []string{"qemu", "kvm"}},
	Docker:          {"docker", "Docker", []string{"runc", "containers"}},
}

// All returns the seven systems in their fixed order.
func All() []VM {
	return []VM{AetherVM, Firecracker, CloudHypervisor, GVisor, Kata, QEMUKVM, Docker}
}

// Valid reports whether vm is one of the seven.
func (vm VM) Valid() bool { return vm >= AetherVM && vm <= Docker }

// Name is the canonical name, for example "qemu-kvm". It is what JSON and the command line use.
func (vm VM) Name() string {
	if !vm.Valid() {
		return fmt.Sprintf("VM(%d)", uint8(vm))
	}
	return systems[vm].name
}

// String is Name.
func (vm VM) String() string { return vm.Name() }

// DisplayName is the name as the system's makers write it, for example "QEMU/KVM".
func (vm VM) DisplayName() string {
	if !vm.Valid() {
		return vm.Name()
	}
	return systems[vm].display
}

// Aliases are the other names that Parse takes.
func (vm VM) Aliases() []string {
	if !vm.Valid() {
		return nil
	}
	return append([]string(nil), systems[vm].aliases...)
}

// Parse finds a system by its canonical name, its display name or an alias. Case does not matter,
// and neither do spaces, hyphens, underscores, dots and slashes. The error for an unknown name is an
// [*UnknownNameError] that suggests the nearest one.
func Parse(name string) (VM, error) {
	key := fold(name)
	var known, spellings []string
	var owners []VM
	for _, vm := range All() {
		s := systems[vm]
		known = append(known, s.name)
		for _, spelling := range append([]string{s.name, s.display}, s.aliases...) {
			if fold(spelling) == key {
				return vm, nil
			}
			spellings = append(spellings, fold(spelling))
			owners = append(owners, vm)
		}
	}
	return 0, &UnknownNameError{
		Kind:       "system",
		Name:       name,
		Suggestion: owners[nearest(key, spellings)].Name(),
		Known:      known,
	}
}

// MarshalText gives the canonical name.
func (vm VM) MarshalText() ([]byte, error) {
	if !vm.Valid() {
		return nil, fmt.Errorf("vms: %s is not a system", vm.Name())
	}
	return []byte(vm.Name()), nil
}

// UnmarshalText takes what Parse takes.
func (vm *VM) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*vm = parsed
	return nil
}

// fold reduces a name to what distinguishes it, so that "Cloud_Hypervisor", "cloud hypervisor" and
// "cloudhypervisor" are one.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case ' ', '\t', '\r', '\n', '-', '_', '.', '/':
			return -1
		}
		return r
	}, strings.ToLower(name))
}
