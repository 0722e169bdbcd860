package queue

import "github.com/aethervm/aether/internal/guestmem"

// State is what a queue remembers beside what is in guest memory. There are no chains in flight: a
// device that was paused has given back all that it had taken.
type State struct {
	Config
	// LastAvail counts the chains taken, UsedIdx those given back, modulo 1<<16.
	LastAvail, UsedIdx uint16
}

// State is complete only when no chain is being served.
func (q *Queue) State() State {
	return State{Config: q.cfg, LastAvail: q.lastAvail, UsedIdx: q.usedIdx}
}

// Restore returns a queue that continues from a state, on a copy of the memory. The driver gets one
// interrupt too many rather than one too few. The state is checked as a driver's configuration is.
func Restore(mem *guestmem.Memory, s State, opt Options) (*Queue, error) {
	if err := s.check(mem); err != nil {
		return nil, err
	}
	return &Queue{
		mem: mem, cfg: s.Config, opt: opt,
		availIdx: s.LastAvail, lastAvail: s.LastAvail,
		usedIdx: s.UsedIdx, published: s.UsedIdx,
		fresh: true,
	}, nil
}
