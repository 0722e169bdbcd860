package kvm

import (
	"fmt"
	"runtime"
	"unsafe"
)

// The ioctls that take a struct. Each passes the address of a variable that outlives the call, as
// fd.ioctl demands.

func (s *System) getSupportedCPUID(list *cpuid2) error {
	_, err := s.fd.ioctl("KVM_GET_SUPPORTED_CPUID", ioGetSupportedCPUID, unsafe.Pointer(list))
	return err
}

func (v *VM) setUserMemoryRegion(slot uint32, gpa uint64, mem []byte) error {
	r := userMemoryRegion{slot: slot, guestPhysAddr: gpa, memorySize: uint64(len(mem))}
	if len(mem) > 0 {
		// The kernel keeps this number for as long as the slot exists. It stays right because mem
		// is a mapping, outside Go's heap; VM.slots keeps the reference.
		r.userspaceAddr = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem))))
	}
	_, err := v.fd.ioctl("KVM_SET_USER_MEMORY_REGION", ioSetUserMemoryRegion, unsafe.Pointer(&r))
	runtime.KeepAlive(mem)
	return err
}

// Regs reads the general-purpose registers.
func (c *VCPU) Regs() (Regs, error) {
	var r Regs
	_, err := c.fd.ioctl("KVM_GET_REGS", ioGetRegs, unsafe.Pointer(&r))
	return r, err
}

// SetRegs sets the general-purpose registers.
func (c *VCPU) SetRegs(r Regs) error {
	_, err := c.fd.ioctl("KVM_SET_REGS", ioSetRegs, unsafe.Pointer(&r))
	return err
}

// Sregs reads the special registers.
func (c *VCPU) Sregs() (Sregs, error) {
	var r Sregs
	_, err := c.fd.ioctl("KVM_GET_SREGS", ioGetSregs, unsafe.Pointer(&r))
	return r, err
}

// SetSregs sets the special registers.
func (c *VCPU) SetSregs(r Sregs) error {
	_, err := c.fd.ioctl("KVM_SET_SREGS", ioSetSregs, unsafe.Pointer(&r))
	return err
}

// SetCPUID sets what the CPUID instruction answers. It must be called before the vCPU first runs.
func (c *VCPU) SetCPUID(entries []CPUIDEntry) error {
	if len(entries) > maxCPUIDEntries {
		return fmt.Errorf("KVM_SET_CPUID2: %d entries, at most %d", len(entries), maxCPUIDEntries)
	}
	list := cpuid2{nent: uint32(len(entries))}
	copy(list.entries[:], entries)
	_, err := c.fd.ioctl("KVM_SET_CPUID2", ioSetCPUID2, unsafe.Pointer(&list))
	return err
}

// SetMSRs sets model-specific registers, in order.
func (c *VCPU) SetMSRs(entries ...MSREntry) error {
	if len(entries) > maxMSREntries {
		return fmt.Errorf("KVM_SET_MSRS: %d entries, at most %d", len(entries), maxMSREntries)
	}
	list := msrs{nmsrs: uint32(len(entries))}
	copy(list.entries[:], entries)
	n, err := c.fd.ioctl("KVM_SET_MSRS", ioSetMSRs, unsafe.Pointer(&list))
	if err != nil {
		return err
	}
	// The kernel stops at the first register that it refuses and returns how many it has set.
	if n != len(entries) {
		return fmt.Errorf("KVM_SET_MSRS: the kernel refused register %#x", entries[n].Index)
	}
	return nil
}

// getMSRs reads the registers that the entries name, in order, up to the first that the kernel
// refuses, and returns how many it has read.
func (c *VCPU) getMSRs(entries []MSREntry) (int, error) {
	list := msrs{nmsrs: uint32(min(len(entries), maxMSREntries))}
	copy(list.entries[:], entries)
	n, err := c.fd.ioctl("KVM_GET_MSRS", ioGetMSRs, unsafe.Pointer(&list))
	if err != nil {
		return 0, err
	}
	return copy(entries, list.entries[:n]), nil
}

func (s *System) getMSRIndexList(list *msrList) error {
	_, err := s.fd.ioctl("KVM_GET_MSR_INDEX_LIST", ioGetMSRIndexList, unsafe.Pointer(list))
	return err
}

func (v *VM) enableCap(name string, c Cap, arg uint64) error {
	e := enableCap{cap: uint32(c), args: [4]uint64{arg}}
	_, err := v.fd.ioctl("KVM_ENABLE_CAP "+name, ioEnableCap, unsafe.Pointer(&e))
	return err
}

func (v *VM) signalMSI(m *msi) (int, error) {
	return v.fd.ioctl("KVM_SIGNAL_MSI", ioSignalMSI, unsafe.Pointer(m))
}

func (v *VM) getClock(c *clockData) error {
	_, err := v.fd.ioctl("KVM_GET_CLOCK", ioGetClock, unsafe.Pointer(c))
	return err
}

func (v *VM) setClock(c *clockData) error {
	_, err := v.fd.ioctl("KVM_SET_CLOCK", ioSetClock, unsafe.Pointer(c))
	return err
}

// stateIoctl reads or writes a part of the vCPU's state.
type stateIoctl struct {
	name     string
	get, set uintptr
	part     func(*VCPUState) unsafe.Pointer
}

// stateIoctls in the order in which they are set: what interrupt controllers and registers accept
// depends on the processor's mode, and pending events on all of it. Set them after CPUID.
var stateIoctls = [...]stateIoctl{
	{"SREGS", ioGetSregs, ioSetSregs, func(s *VCPUState) unsafe.Pointer { return unsafe.Pointer(&s.Sregs) }},
	{xcrsPart, ioGetXCRs, ioSetXCRs, func(s *VCPUState) unsafe.Pointer { return unsafe.Pointer(&s.xcrs) }},
	{"XSAVE", ioGetXSave, ioSetXSave, func(s *VCPUState) unsafe.Pointer { return unsafe.Pointer(&s.xsave) }},
	{"REGS", ioGetRegs, ioSetRegs, func(s *VCPUState) unsafe.Pointer { return unsafe.Pointer(&s.Regs) }},
	{"DEBUGREGS", ioGetDebugRegs, ioSetDebugRegs, func(s *VCPUState) unsafe.Pointer { return unsafe.Pointer(&s.debugRegs) }},
	{lapicPart, ioGetLAPIC, ioSetLAPIC, func(s *VCPUState) unsafe.Pointer { return unsafe.Pointer(&s.lapic) }},
	{mpStatePart, ioGetMPState, ioSetMPState, func(s *VCPUState) unsafe.Pointer { return unsafe.Pointer(&s.mpState) }},
	{"VCPU_EVENTS", ioGetVCPUEvents, ioSetVCPUEvents, func(s *VCPUState) unsafe.Pointer { return unsafe.Pointer(&s.events) }},
}

func (c *VCPU) getPart(i *stateIoctl, s *VCPUState) error {
	_, err := c.fd.ioctl("KVM_GET_"+i.name, i.get, i.part(s)) // s is on the heap or the caller's stack for all of the call
	return err
}

func (c *VCPU) setPart(i *stateIoctl, s *VCPUState) error {
	_, err := c.fd.ioctl("KVM_SET_"+i.name, i.set, i.part(s))
	return err
}
