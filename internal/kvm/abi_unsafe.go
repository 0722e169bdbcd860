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
