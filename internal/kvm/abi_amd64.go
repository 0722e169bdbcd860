package kvm

import "structs"

// Regs are the general-purpose registers (struct kvm_regs).
type Regs struct {
	_                                      structs.HostLayout
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64
}

// Segment is a segment register with its cached descriptor (struct kvm_segment).
type Segment struct {
	_                                              structs.HostLayout
	Base                                           uint64
	Limit                                          uint32
	Selector                                       uint16
	Type, Present, DPL, DB, S, L, G, AVL, Unusable uint8
	_                                              uint8
}

// DTable is a descriptor table register (struct kvm_dtable).
type DTable struct {
	_     structs.HostLayout
	Base  uint64
	Limit uint16
	_     [3]uint16
}

// Sregs are the special registers (struct kvm_sregs).
type Sregs struct {
	_                               structs.HostLayout
	CS, DS, ES, FS, GS, SS, TR, LDT Segment
	GDT, IDT                        DTable
	CR0, CR2, CR3, CR4, CR8, EFER   uint64
	APICBase                        uint64
	InterruptBitmap                 [4]uint64
}

// CPUIDEntry is what CPUID answers for one leaf and subleaf (struct kvm_cpuid_entry2).
type CPUIDEntry struct {
	_                      structs.HostLayout
	Function, Index, Flags uint32
	EAX, EBX, ECX, EDX     uint32
	_                      [3]uint32
}

// MSREntry is a model-specific register and its value (struct kvm_msr_entry).
type MSREntry struct {
	_     structs.HostLayout
	Index uint32
	_     uint32
	Data  uint64
}

// userMemoryRegion is struct kvm_userspace_memory_region.
type userMemoryRegion struct {
	_                                        structs.HostLayout
	slot, flags                              uint32
	guestPhysAddr, memorySize, userspaceAddr uint64
}

// enableCap is struct kvm_enable_cap.
type enableCap struct {
	_          structs.HostLayout
	cap, flags uint32
	args       [4]uint64
	_          [64]uint8
}

// msi is struct kvm_msi.
type msi struct {
	_       structs.HostLayout
	address uint64 // address_lo and address_hi
	data    uint32
	flags   uint32
	devid   uint32
	_       [12]uint8
}

// clockData is struct kvm_clock_data.
type clockData struct {
	_        structs.HostLayout
	clock    uint64
	flags    uint32
	_        uint32
	realtime uint64
	hostTSC  uint64
	_        [4]uint32
}

// Parts of a vCPU's state that are kept as the kernel wrote them.
type (
	lapicState [1024]byte // struct kvm_lapic_state
	mpState    uint32     // struct kvm_mp_state
	vcpuEvents [64]byte   // struct kvm_vcpu_events
	debugRegs  [128]byte  // struct kvm_debugregs
	xsave      [4096]byte // struct kvm_xsave
	xcrs       [392]byte  // struct kvm_xcrs
)

// The kernel's counted arrays, with as much room as this package uses. Today's kernels report
// about 50 CPUID entries and 150 MSRs; the kernel itself stops at 256 and 512.
const (
	maxCPUIDEntries = 256
	maxMSREntries   = 512
)

type cpuid2 struct {
	_       structs.HostLayout
	nent    uint32
	_       uint32
	entries [maxCPUIDEntries]CPUIDEntry
}

type msrs struct {
	_       structs.HostLayout
	nmsrs   uint32
	_       uint32
	entries [maxMSREntries]MSREntry
}

type msrList struct {
	_       structs.HostLayout
	nmsrs   uint32
	indices [maxMSREntries]uint32
}

// runPage is the head of struct kvm_run, the page that the kernel shares with this process for
// each vCPU.
type runPage struct {
	_ structs.HostLayout
	// control holds request_interrupt_window in its lowest byte and immediate_exit in the next. It
	// is one word here so that it can be changed atomically while the vCPU runs.
	control                    uint32
	_                          uint32
	exitReason                 uint32
	readyForInterruptInjection uint8
	ifFlag                     uint8
	flags                      uint16
	cr8                        uint64
	apicBase                   uint64
	exit                       [exitUnionSize]byte
}

const (
	controlImmediateExit = 1 << 8
	// exitUnionSize is the room that the kernel reserved in struct kvm_run for the exit's details.
	exitUnionSize = 256
)
