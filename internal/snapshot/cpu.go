package snapshot

import (
	"fmt"
	"slices"
)

// CPU is what a guest may rely on of its processor.
type CPU struct {
	// Leaves are what CPUID answers, as KVM lists it for the host.
	Leaves []Leaf
	// MSRs are the model-specific registers that are part of a processor's state.
	MSRs []uint32
	// TSCKHz is the rate of its time-stamp counter in kHz, 0 if it is not known. Whether a guest of another rate can go on
	// is for who knows the host to say: see kvm.TSC.
	TSCKHz uint32
}

// Leaf is what CPUID answers for one leaf and subleaf.
type Leaf struct {
	Function, Index    uint32
	EAX, EBX, ECX, EDX uint32
}

// The leaves that say which of its threads a processor is: they differ from call to call. AMD APM volume 3, appendix E;
// Intel SDM volume 2A, CPUID.
const (
	leafFeatures = 1          // EBX: initial APIC ID in bits 31 to 24
	leafTopology = 0xb        // EDX: x2APIC ID
	leafDies     = 0x1f       // the same
	leafExtended = 0x8000001e // EAX, EBX, ECX: APIC ID, core, node
	leafAMDCores = 0x80000026 // EDX: x2APIC ID
)

// whole is the leaf without what does not describe the processor's model.
func (l Leaf) whole() Leaf {
	switch l.Function {
	case leafFeatures:
		l.EBX &= 1<<24 - 1
	case leafTopology, leafDies, leafAMDCores:
		l.EDX = 0
	case leafExtended:
		l.EAX, l.EBX, l.ECX = 0, 0, 0
	}
	return l
}

// Fits tells whether a guest that has met c can go on where the host has the processor here. It must be the same one to
// the bit: a guest has read its features once and for all, and does not ask again. The error wraps ErrCPU and names what
// differs first.
func (c CPU) Fits(here CPU) error {
	type place struct{ function, index uint32 }
	other := map[place]Leaf{}
	for _, l := range here.Leaves {
		other[place{l.Function, l.Index}] = l.whole()
	}
	for _, l := range c.Leaves {
		at := place{l.Function, l.Index}
		got, ok := other[at]
		if !ok {
			return fmt.Errorf("%w: this host has no CPUID leaf %#x.%d", ErrCPU, l.Function, l.Index)
		}
		delete(other, at)
		if want := l.whole(); got != want {
			return fmt.Errorf("%w: CPUID leaf %#x.%d is %s, here %s", ErrCPU, l.Function, l.Index, want.registers(), got.registers())
		}
	}
	for at := range other {
		return fmt.Errorf("%w: this host has a CPUID leaf more, %#x.%d", ErrCPU, at.function, at.index)
	}
	for _, msr := range c.MSRs {
		if !slices.Contains(here.MSRs, msr) {
			return fmt.Errorf("%w: this host does not keep model-specific register %#x", ErrCPU, msr)
		}
	}
	return nil
}

func (l Leaf) registers() string {
	return fmt.Sprintf("%08x %08x %08x %08x", l.EAX, l.EBX, l.ECX, l.EDX)
}
