package kvm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrTSCRate is wrapped by errors about a guest whose time-stamp counter runs at another rate than this host's, which cannot
// scale it. The guest has measured the rate once, and its clocks depend on it.
var ErrTSCRate = errors.New("kvm: the time-stamp counter runs at another rate")

// tscTolerance is how far two rates may be apart and count as one, in parts of a million: what KVM itself takes for the same
// (kvm.tsc_tolerance_ppm), and what a guest's clock is corrected by anyway.
const tscTolerance = 250

// TSC is the time-stamp counter of a host.
type TSC struct {
	KHz uint32 // 0 if it is not known: KVM does not say where the counter is not stable
	// Scales says that a guest's can run at a rate of its own.
	Scales bool
}

// Runs tells whether a guest whose counter has run at a rate in kHz can go on here. A rate of 0 is not known, and fits. The
// error wraps ErrTSCRate.
func (t TSC) Runs(guest uint32) error {
	if t.Scales || guest == 0 || t.KHz == 0 || sameRate(guest, t.KHz) {
		return nil
	}
	return fmt.Errorf("%w: the guest's at %d kHz, this host's at %d kHz, which cannot be scaled", ErrTSCRate, guest, t.KHz)
}

func sameRate(a, b uint32) bool {
	low, high := uint64(min(a, b)), uint64(max(a, b))
	return (high-low)*1_000_000 <= tscTolerance*high
}

// TSC returns the host's time-stamp counter, as a guest gets it. It makes a VM and a vCPU for the question.
func (s *System) TSC() (t TSC, err error) {
	scales, err := s.Check(CapTSCControl)
	if err != nil {
		return t, err
	}
	vm, err := s.CreateVM()
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, vm.Close()) }()
	c, err := vm.CreateVCPU(0)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	khz, err := c.TSCKHz()
	return TSC{KHz: khz, Scales: scales > 0}, err
}

// TSCKHz is the rate of the vCPU's time-stamp counter in kHz; 0 where KVM does not say.
func (c *VCPU) TSCKHz() (uint32, error) {
	khz, err := c.fd.ioctlValue("KVM_GET_TSC_KHZ", ioGetTSCKHz, 0)
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) { // "EIO: unstable TSC"; an old kernel
		return 0, nil
	}
	return uint32(max(khz, 0)), err
}

// keepTSCRate has the vCPU's counter run at the rate that it had.
func (c *VCPU) keepTSCRate(guest uint32) error {
	if guest == 0 {
		return nil
	}
	here, err := c.TSCKHz()
	if err != nil || here == 0 || sameRate(here, guest) {
		return err
	}
	scales, err := c.vm.Check(CapTSCControl)
	if err != nil {
		return err
	}
	if err := (TSC{KHz: here, Scales: scales > 0}).Runs(guest); err != nil {
		return err
	}
	if _, err := c.fd.ioctlValue("KVM_SET_TSC_KHZ", ioSetTSCKHz, uintptr(guest)); err != nil {
		return fmt.Errorf("%w: %d kHz, this host's at %d: %w", ErrTSCRate, guest, here, err)
	}
	return nil
}
