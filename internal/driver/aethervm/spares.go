package aethervm

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/internal/lease"
)

const (
	// maxSpares is how many spare cells a driver has. Each is a process of some 2 MiB, a user and a control group.
	maxSpares = 2
	// spareDemand is how often copies must have been made before there are spares: a command that makes copies once and ends
	// would only pay for them.
	spareDemand = 2
)

// spares are cells that were started ahead of the copies that will be in them: the start of a process and its jail
// take most of the time that a copy takes beside its guest. They have nothing of any sandbox, so that it does not
// matter whose the copy is. All are of one size, that of the last copy. The zero value is ready.
type spares struct {
	mu     sync.Mutex
	closed bool
	asked  int
	idle   *time.Timer // ends those that nobody has asked for
	size   size
	ready  []*cell.Spare
	making int // of that size
	tasks  sync.WaitGroup
	stop   context.CancelFunc // of those in the making
	ctx    context.Context
}

// size is what a cell is limited to.
type size struct{ vcpus, memoryMiB int }

// take returns a spare cell, which is the caller's, or nil if none is ready.
func (s *spares) take(of size) *cell.Spare {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size != of {
		return nil
	}
	for len(s.ready) > 0 {
		c := s.ready[len(s.ready)-1]
		s.ready = s.ready[:len(s.ready)-1]
		select {
		case <-c.Done(): // something has ended it
			s.tasks.Go(func() { _ = c.Close() })
		default:
			return c
		}
	}
	return nil
}

// fill has spare cells of a size made, in the background, in place of any of another size. It is called when the cells
// that are asked for have been started: they would wait for these. owned is the driver's lease, which close comes before the end of.
func (s *spares) fill(owned *lease.Lease, of size) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked++; s.closed || s.asked < spareDemand {
		return
	}
	if s.ctx == nil {
		s.ctx, s.stop = context.WithCancel(context.Background())
		s.idle = time.AfterFunc(aheadLife, s.expire)
	}
	s.idle.Reset(aheadLife)
	if s.size != of {
		s.drop()
		s.size, s.making = of, 0
	}
	for ; len(s.ready)+s.making < maxSpares; s.making++ {
		s.tasks.Go(func() { s.add(owned, of) })
	}
}

// add makes a spare cell. If it cannot be made, a copy will tell why.
func (s *spares) add(owned *lease.Lease, of size) {
	c, err := prepareCell(s.ctx, owned, of)
	s.mu.Lock()
	defer s.mu.Unlock()
	current := s.size == of && s.making > 0
	if current {
		s.making--
	}
	switch {
	case err != nil:
	case s.closed || !current:
		s.tasks.Go(func() { _ = c.Close() })
	default:
		s.ready = append(s.ready, c)
	}
}

// expire closes what nobody has asked for.
func (s *spares) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.drop()
	}
}

// drop closes what is ready. The caller holds s.mu.
func (s *spares) drop() {
	for _, c := range s.ready {
		s.tasks.Go(func() { _ = c.Close() })
	}
	s.ready = nil
}

// close ends all spare cells; there will be no more. It is idempotent.
func (s *spares) close() error {
	s.mu.Lock()
	s.closed = true
	if s.stop != nil {
		s.stop()
		s.idle.Stop()
	}
	ready := s.ready
	s.ready = nil
	s.mu.Unlock()
	errs := make([]error, len(ready))
	for i, c := range ready {
		errs[i] = c.Close()
	}
	s.tasks.Wait()
	return errors.Join(errs...)
}

// prepareCell starts a cell that nobody has asked for yet. Until a sandbox takes it, it has no mark in the lease: who
// sweeps counts sandboxes.
func prepareCell(ctx context.Context, owned *lease.Lease, of size) (*cell.Spare, error) {
	cfg, err := spareConfig(owned, of)
	if err != nil {
		return nil, err
	}
	return cell.Prepare(ctx, cfg)
}

// spareConfig is a process under a new ID.
func spareConfig(owned *lease.Lease, of size) (cell.SpareConfig, error) {
	program, err := openProgram()
	return cell.SpareConfig{
		ID: cellsOf(owned.ID) + lease.NewID(), Program: program, VCPUs: of.vcpus, MemoryMiB: of.memoryMiB,
	}, err
}
