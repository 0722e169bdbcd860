package mmio

import "sync"

// line is the interrupt line with the status that says what it is about. It has a lock of its own: an
// interrupt handler in the guest must not wait for a device that is busy with a disk.
type line struct {
	set func(asserted bool)

	mu         sync.Mutex
	status     uint32
	generation uint32 // of the configuration space
}

// raise reports events.
func (l *line) raise(events uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status |= events
	l.set(true)
}

// configChanged reports a change of the configuration space.
func (l *line) configChanged() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.generation++
	l.status |= interruptConfig
	l.set(true)
}

// acknowledge forgets events that the driver has handled.
func (l *line) acknowledge(events uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.status == 0 {
		return
	}
	if l.status &^= events; l.status == 0 {
		l.set(false)
	}
}

// clear forgets all events.
func (l *line) clear() { l.acknowledge(^uint32(0)) }

// again repeats what was not acknowledged.
func (l *line) again() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.status != 0 {
		l.set(true)
	}
}

func (l *line) read() (status, generation uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status, l.generation
}

func (l *line) restore(status, generation uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status, l.generation = status, generation
}
