package kvm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// VCPUState is all that a vCPU without its memory is, apart from CPUID, which is configuration. It
// can be given to another vCPU, of another VM, with the same CPUID.
type VCPUState struct {
	Regs  Regs
	Sregs Sregs
	// MSRs are the model-specific registers that the vCPU has, in the order in which they are set.
	MSRs []MSREntry
	// HasLAPIC says whether the VM has interrupt controllers.
	HasLAPIC bool
	// TSCKHz is the rate of the time-stamp counter in kHz; 0 if it is not known.
	TSCKHz uint32

	xcrs      xcrs
	xsave     xsave
	debugRegs debugRegs
	lapic     lapicState
	mpState   mpState
	events    vcpuEvents
}

const (
	// lapicPart is the part that a vCPU without an interrupt controller lacks, xcrsPart the one that a
	// processor without XSAVE reports as empty and does not accept.
	lapicPart = "LAPIC"
	xcrsPart  = "XCRS"
	// mpStatePart is the one that has a side effect when it is read.
	mpStatePart = "MP_STATE"
	// msrTSCDeadline arms a timer, relative to the TSC, so it is set after all others.
	msrTSCDeadline = 0x6e0
)

// MSRIndices returns the model-specific registers that are part of a guest's state on this host, for
// VCPU.State.
func (s *System) MSRIndices() ([]uint32, error) {
	list := msrList{nmsrs: maxMSREntries}
	if err := s.getMSRIndexList(&list); err != nil {
		return nil, err
	}
	var indices []uint32
	deadline := false
	for _, index := range list.indices[:min(list.nmsrs, maxMSREntries)] {
		if index == msrTSCDeadline {
			deadline = true
			continue
		}
		indices = append(indices, index)
	}
	if deadline {
		indices = append(indices, msrTSCDeadline)
	}
	return indices, nil
}

// State reads the vCPU's state, with those of the given MSRs that it has. It must not be in Run, and
// its last exit must have been completed, which a Run that ends with ErrKicked has done.
func (c *VCPU) State(msrs []uint32) (*VCPUState, error) {
	s := &VCPUState{HasLAPIC: true}
	for _, part := range readOrder() {
		err := c.getPart(part, s)
		if part.name == lapicPart && errors.Is(err, unix.EINVAL) {
			s.HasLAPIC = false // "EINVAL: no in-kernel local APIC"
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	var err error
	if s.TSCKHz, err = c.TSCKHz(); err != nil {
		return nil, err
	}
	if s.MSRs, err = c.MSRs(msrs...); err != nil {
		return nil, err
	}
	return s, nil
}

// readOrder is the reverse of the order in which the parts are set, but with MP_STATE first. Reading that
// makes the kernel act on an INIT or SIPI that is pending, and reading the events makes it write the
// address or cause of a pending exception to its register (arch/x86/kvm/x86.c), so registers come later.
func readOrder() []*stateIoctl {
	var first, rest []*stateIoctl
	for i := len(stateIoctls) - 1; i >= 0; i-- {
		if part := &stateIoctls[i]; part.name == mpStatePart {
			first = append(first, part)
		} else {
			rest = append(rest, part)
		}
	}
	return append(first, rest...)
}

// SetState makes the vCPU go on from a state. SetCPUID comes before it. A state whose time-stamp counter runs at another rate
// than this host's has it scaled; where the host cannot, it is refused with ErrTSCRate.
func (c *VCPU) SetState(s *VCPUState) error {
	// The counter's value is set later, in its rate.
	if err := c.keepTSCRate(s.TSCKHz); err != nil {
		return err
	}
	for i := range stateIoctls {
		part := &stateIoctls[i]
		if part.name == lapicPart && !s.HasLAPIC || part.name == xcrsPart && s.xcrs == (xcrs{}) {
			continue
		}
		if err := c.setPart(part, s); err != nil {
			return err
		}
		if part.name == lapicPart {
			// The timer's mode is in the local APIC; what follows may depend on the clock.
			if err := c.SetMSRs(s.MSRs...); err != nil {
				return err
			}
		}
	}
	if !s.HasLAPIC {
		return c.SetMSRs(s.MSRs...)
	}
	return nil
}

// MSRs reads the given model-specific registers. Those that the vCPU does not have are left out.
func (c *VCPU) MSRs(indices ...uint32) ([]MSREntry, error) {
	if len(indices) > maxMSREntries {
		return nil, fmt.Errorf("KVM_GET_MSRS: %d entries, at most %d", len(indices), maxMSREntries)
	}
	rest := make([]MSREntry, len(indices))
	for i, index := range indices {
		rest[i].Index = index
	}
	found := rest[:0:len(rest)]
	for len(rest) > 0 {
		n, err := c.getMSRs(rest)
		if err != nil {
			return nil, err
		}
		found = append(found, rest[:n]...)
		rest = rest[min(n+1, len(rest)):] // the one after those read was refused
	}
	return found, nil
}

// ClockPaused tells the guest's watchdogs, by way of kvm-clock, that the vCPU was paused and not
// stuck. A guest without kvm-clock is not told.
func (c *VCPU) ClockPaused() error {
	_, err := c.fd.ioctlValue("KVM_KVMCLOCK_CTRL", ioKVMClockCtrl, 0)
	if errors.Is(err, unix.EINVAL) { // "if the vCPU has no kvmclock"
		return nil
	}
	return err
}
