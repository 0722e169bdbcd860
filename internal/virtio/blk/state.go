package blk

import "fmt"

// State is what a disk remembers: nothing but what it is. A guest must find the same disk again.
type State struct {
	Sectors uint64
	ID      [idSize]byte
}

// State returns the disk's identity.
func (d *Device) State() State { return State{Sectors: d.sectors, ID: d.id} }

// Restore fails if the state is that of another disk.
func (d *Device) Restore(s State) error {
	if s != d.State() {
		return fmt.Errorf("virtio block device: state of disk %q with %d sectors, but the disk is %q with %d", s.ID, s.Sectors, d.id, d.sectors)
	}
	return nil
}
