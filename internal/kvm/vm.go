package kvm

import (
	"fmt"
	"os"
	"sync"
)

// VM is a guest's address space. Its methods may be called concurrently.
type VM struct {
	fd       *fd
	mmapSize int

	mu    sync.Mutex
	slots map[uint32][]byte // keeps what the kernel has mapped referenced
}

// Check returns the value of a capability for this VM; see System.Check.
func (v *VM) Check(c Cap) (int, error) {
	return v.fd.ioctlValue("KVM_CHECK_EXTENSION", ioCheckExtension, uintptr(c))
}

// SetMemory makes mem the guest's memory at physical address gpa, as memslot number slot; an empty
// mem removes the slot. mem must be a mapping (unix.Mmap), page-aligned in place and length, never
// memory of the Go heap, and must stay mapped until the slot is removed or the VM and all its vCPUs
// are closed.
func (v *VM) SetMemory(slot uint32, gpa uint64, mem []byte) error {
	page := uint64(os.Getpagesize())
	if gpa%page != 0 || uint64(len(mem))%page != 0 {
		return fmt.Errorf("KVM_SET_USER_MEMORY_REGION: %d bytes at %#x are not whole pages", len(mem), gpa)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.setUserMemoryRegion(slot, gpa, mem); err != nil {
		return err
	}
	if len(mem) == 0 {
		delete(v.slots, slot)
	} else {
		v.slots[slot] = mem
	}
	return nil
}

// SetTSSAddr gives KVM three pages of guest-physical address space, outside all memory, that
// Intel processors need to run real-mode code. It must be called before the first vCPU is made.
func (v *VM) SetTSSAddr(gpa uint64) error {
	_, err := v.fd.ioctlValue("KVM_SET_TSS_ADDR", ioSetTSSAddr, uintptr(gpa))
	return err
}

// CreateVCPU makes the vCPU with the given APIC ID.
func (v *VM) CreateVCPU(id int) (*VCPU, error) {
	raw, err := v.fd.ioctlValue("KVM_CREATE_VCPU", ioCreateVCPU, uintptr(id))
	if err != nil {
		return nil, err
	}
	c := &VCPU{fd: newFD(raw, fmt.Sprintf("vCPU %d", id)), vm: v}
	if c.shared, err = c.fd.mmap(v.mmapSize); err == nil {
		c.page, err = runPageOf(c.shared)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Close closes the VM. The kernel frees it, and lets go of the guest's memory, when its vCPUs are
// closed as well. It is idempotent.
func (v *VM) Close() error { return v.fd.close() }
