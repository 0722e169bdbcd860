package kvm

import (
	"fmt"
	"os"
	"structs"
	"unsafe"
)

// From linux/kvm.h since Linux 6.11, later than the headers that the rest is generated from.
const (
	// CapPreFaultMemory: VCPU.PreFault works.
	CapPreFaultMemory Cap = 236 // KVM_CAP_PRE_FAULT_MEMORY

	ioPreFaultMemory = 0xc040aed5 // KVM_PRE_FAULT_MEMORY
)

// preFaultMemory is struct kvm_pre_fault_memory.
type preFaultMemory struct {
	_     structs.HostLayout
	gpa   uint64
	size  uint64
	flags uint64
	_     [5]uint64
}

// PreFault maps the guest-physical memory [gpa, gpa+size) in the page tables that the vCPU uses, as if the guest had read
// it, so that the guest needs no exit for it; all vCPUs of a VM have that of it. Pages that this process can write are mapped for
// writing as well. What is mapped already stays. It needs CapPreFaultMemory of the VM, whole pages and memory of a memslot.
//
// It returns how much it has done, which is less than size, without an error, when a signal has come in between; the Go
// runtime sends some. A Run in progress makes it wait: it is for vCPUs that do not run.
func (c *VCPU) PreFault(gpa, size uint64) (done uint64, err error) {
	page := uint64(os.Getpagesize())
	if (gpa|size)%page != 0 || size == 0 || gpa+size < gpa {
		return 0, fmt.Errorf("KVM_PRE_FAULT_MEMORY: %d bytes at %#x are not whole pages", size, gpa)
	}
	// The kernel moves the start and takes from the size what it has done.
	r := preFaultMemory{gpa: gpa, size: size}
	_, err = c.fd.ioctl("KVM_PRE_FAULT_MEMORY", ioPreFaultMemory, unsafe.Pointer(&r))
	return size - min(r.size, size), err
}
