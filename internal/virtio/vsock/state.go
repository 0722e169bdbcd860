package vsock

// State is what the device remembers. Connections are not part of it.
type State struct {
	// NextPort is where the search for a free port of the host continues.
	NextPort uint32
}

// State returns the device's state.
func (d *Device) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return State{NextPort: d.nextPort}
}

// Restore gives a new device the state of another one, before the transport is restored. The guest is
// told that its connections are gone and that its CID may be another one.
func (d *Device) Restore(s State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nextPort = max(s.NextPort, firstPort) // what it says is harmless
	d.event = eventWanted
	return nil
}
