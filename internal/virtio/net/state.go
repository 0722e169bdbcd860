package net

import "errors"

// State is what a card remembers. Frames in flight are not part of it: networks lose frames.
type State struct {
	MAC [6]byte
}

// State returns the card's state.
func (d *Device) State() State { return State{MAC: [6]byte(d.config[configMAC:])} }

// Restore fails if the state is that of another card: Linux reads the address once. Who forks a guest
// has the agent in it set another address, if it matters.
func (d *Device) Restore(s State) error {
	if s != d.State() {
		return errors.New("virtio network card: state of a card with another hardware address")
	}
	return nil
}
