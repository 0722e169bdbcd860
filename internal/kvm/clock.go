package kvm

import "time"

// Clock returns the VM's kvm-clock: the time that its guest's kvm-clock source shows, counted from the
// VM's creation or from what SetClock has set.
func (v *VM) Clock() (time.Duration, error) {
	var c clockData
	err := v.getClock(&c)
	return time.Duration(c.clock), err
}

// SetClock sets the VM's kvm-clock, from which it goes on.
func (v *VM) SetClock(d time.Duration) error {
	return v.setClock(&clockData{clock: uint64(d)})
}
