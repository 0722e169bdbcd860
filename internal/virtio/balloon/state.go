package balloon

import "encoding/binary"

// State is what a balloon remembers. Figures are pages.
type State struct {
	Target, Actual uint32
}

// State returns the balloon's state.
func (d *Device) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return State{
		Target: binary.LittleEndian.Uint32(d.config[configNumPages:]),
		Actual: binary.LittleEndian.Uint32(d.config[configActual:]),
	}
}

// Restore gives a new balloon the state of another one, before the transport is restored. Any state is
// valid.
func (d *Device) Restore(s State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	binary.LittleEndian.PutUint32(d.config[configNumPages:], s.Target)
	binary.LittleEndian.PutUint32(d.config[configActual:], s.Actual)
	return nil
}
