package machine

import (
	"math/bits"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/kvm"
)

// tssAddr is where Intel processors that cannot run real mode in a guest keep what they need for it:
// three pages, outside RAM and devices. KVM's default for another page, the identity map, is below.
const tssAddr = 0xfffbd000

// Leaves of CPUID. Intel SDM volume 2A, AMD APM volume 3, appendix E.
const (
	leafFeatures    = 0x1
	leafCache       = 0x4
	leafPerformance = 0xa
	leafTopology    = 0xb
	leafTopologyV2  = 0x1f
	leafKVM         = 0x40000001 // https://docs.kernel.org/virt/kvm/x86/cpuid.html
	leafAMDSizes    = 0x80000008
	leafAMDCache    = 0x8000001d
	leafAMDTopology = 0x8000001e
	leafAMDPerfMon  = 0x80000022
	leafAMDTopoV2   = 0x80000026

	featureTSCDeadline = 1 << 24 // ECX
	featureHypervisor  = 1 << 31 // ECX
	featureThreads     = 1 << 28 // EDX: there may be several logical processors

	// Asynchronous page faults, EAX: the feature, for nested guests, and by interrupt.
	featureAsyncPF = 1<<4 | 1<<10 | 1<<14

	significantIndex = 1 // flag of an entry: its subleaf counts
)

// guestCPUID is what CPUID answers on the vCPU with the given APIC ID: what KVM supports, with one
// package of so many cores, one thread each, without performance counters, which would only serve to spy on
// neighbours, and without asynchronous page faults: a fault that waits for the host is a promise of KVM that is
// not part of a saved state, and in copies that share pages there are many.
func guestCPUID(supported []kvm.CPUIDEntry, id, vcpus int) []kvm.CPUIDEntry {
	var out []kvm.CPUIDEntry
	cores, shift := uint32(vcpus), uint32(bits.Len(uint(vcpus-1)))
	for _, e := range supported {
		switch e.Function {
		case leafFeatures:
			e.EBX = e.EBX&0x0000ffff | 1<<shift<<16 | uint32(id)<<24
			e.ECX |= featureTSCDeadline | featureHypervisor
			e.EDX &^= featureThreads
			if vcpus > 1 {
				e.EDX |= featureThreads
			}
		case leafKVM:
			e.EAX &^= featureAsyncPF
		case leafCache:
			e.EAX = e.EAX&0x3fff | cacheSharing(e.EAX, cores) | (1<<shift-1)<<26
		case leafAMDCache:
			e.EAX = e.EAX&0x3fff | cacheSharing(e.EAX, cores)
		case leafPerformance, leafAMDPerfMon:
			e.EAX, e.EBX, e.ECX, e.EDX = 0, 0, 0, 0
		case leafTopology, leafTopologyV2, leafAMDTopoV2:
			continue // the one that all kernels know is below
		case leafAMDSizes:
			e.ECX = e.ECX&^0xf0ff | shift<<12 | (cores - 1)
		case leafAMDTopology:
			e.EAX, e.EBX, e.ECX = uint32(id), uint32(id), 0
		}
		out = append(out, e)
	}
	const threadLevel, coreLevel = 1 << 8, 2 << 8
	return append(out,
		kvm.CPUIDEntry{Function: leafTopology, Index: 0, Flags: significantIndex, EAX: 0, EBX: 1, ECX: 0 | threadLevel, EDX: uint32(id)},
		kvm.CPUIDEntry{Function: leafTopology, Index: 1, Flags: significantIndex, EAX: shift, EBX: cores, ECX: 1 | coreLevel, EDX: uint32(id)},
	)
}

// cacheSharing is how many processors share a cache, as leaf 4 counts: its third level is of all
// cores, the others of one.
func cacheSharing(eax, cores uint32) uint32 {
	if level := eax >> 5 & 7; level < 3 {
		return 0
	}
	return (cores - 1) << 14
}

const (
	msrMiscEnable = 0x1a0
	miscFast      = 1 // fast string operations, without which Linux copies memory slowly
	msrMTRRDef    = 0x2ff
	mtrrOn        = 1<<11 | 6 // enabled, with write-back as the default: without MTRRs Linux uses no PAT
)

// setInitialMSRs does what firmware would have done.
func setInitialMSRs(vcpu *kvm.VCPU) error {
	entries, err := vcpu.MSRs(msrMiscEnable)
	if err != nil {
		return err
	}
	for i := range entries {
		entries[i].Data |= miscFast
	}
	return vcpu.SetMSRs(append(entries, kvm.MSREntry{Index: msrMTRRDef, Data: mtrrOn})...)
}

// setBootState makes cpu the state of the boot processor.
func setBootState(vcpu *kvm.VCPU, cpu boot.CPU) error {
	s, err := vcpu.Sregs()
	if err != nil {
		return err
	}
	s.CS, s.DS, s.ES = segment(cpu.CS), segment(cpu.DS), segment(cpu.ES)
	s.FS, s.GS, s.SS = segment(cpu.FS), segment(cpu.GS), segment(cpu.SS)
	s.TR, s.LDT = segment(cpu.TR), segment(cpu.LDT)
	s.GDT.Base, s.GDT.Limit = cpu.GDT.Base, cpu.GDT.Limit
	s.IDT.Base, s.IDT.Limit = cpu.IDT.Base, cpu.IDT.Limit
	s.CR0, s.CR3, s.CR4, s.EFER = cpu.CR0, cpu.CR3, cpu.CR4, cpu.EFER
	if err := vcpu.SetSregs(s); err != nil {
		return err
	}
	return vcpu.SetRegs(kvm.Regs{RIP: cpu.RIP, RSP: cpu.RSP, RSI: cpu.RSI, RFLAGS: cpu.RFLAGS})
}

func segment(s boot.Segment) kvm.Segment {
	flag := func(set bool) uint8 {
		if set {
			return 1
		}
		return 0
	}
	return kvm.Segment{
		Base: s.Base, Limit: s.Limit, Selector: s.Selector, Type: s.Type, DPL: s.DPL,
		Present: flag(s.Present), DB: flag(s.DB), S: flag(s.S), L: flag(s.L), G: flag(s.G), AVL: flag(s.AVL),
		Unusable: flag(s.Unusable),
	}
}
