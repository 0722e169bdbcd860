package aethervm

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/agentsandbox"
	"github.com/aethervm/aether/sandbox"
)

// Sandbox is a virtual machine. Beside sandbox.Sandbox it implements Pauser, Forker,
// Snapshotter, Inspector, StatsReader and EgressLogger.
type Sandbox struct {
	*agentsandbox.Sandbox

	driver  *Driver
	spec    sandbox.Spec
	machine *machine
	network *network        // nil for none
	outside sandbox.Outside // its own; nil for none

	// state guards whether the machine runs.
	state  sync.Mutex
	paused bool
}

var (
	_ sandbox.Driver       = (*Driver)(nil)
	_ sandbox.Pauser       = (*Sandbox)(nil)
	_ sandbox.Forker       = (*Sandbox)(nil)
	_ sandbox.Snapshotter  = (*Sandbox)(nil)
	_ sandbox.Restorer     = (*Driver)(nil)
	_ sandbox.Templater    = (*Driver)(nil)
	_ sandbox.Inspector    = (*Sandbox)(nil)
	_ sandbox.StatsReader  = (*Sandbox)(nil)
	_ sandbox.EgressLogger = (*Sandbox)(nil)
)

// Close is sandbox.Sandbox's.
func (s *Sandbox) Close() error {
	err := s.Sandbox.Close()
	if s.outside != nil {
		err = errors.Join(err, s.outside.Close())
	}
	return err
}

// Stats is sandbox.StatsReader's.
func (s *Sandbox) Stats(ctx context.Context) (sandbox.Stats, error) {
	stats, err := s.Sandbox.Stats(ctx)
	if err == nil && s.network != nil {
		err = s.Operate(ctx, "stats", func(ctx context.Context) (err error) {
			stats.SentBytes, err = s.machine.cell.Sent(ctx)
			return err
		})
	}
	return stats, err
}

// Pause is sandbox.Pauser's.
func (s *Sandbox) Pause(ctx context.Context) error {
	s.state.Lock()
	defer s.state.Unlock()
	return s.Operate(ctx, "pause", func(ctx context.Context) error {
		if s.paused {
			return nil
		}
		s.Client.Drop() // who asks for something meanwhile is to wait outside, and may give up there
		if err := s.machine.cell.Pause(ctx); err != nil {
			return err
		}
		s.Client.Drop() // that of an operation that has ended meanwhile
		s.paused = true
		_, _ = s.machine.cell.GiveBack(ctx) // a wish: it is paused all the same
		return nil
	})
}

// Resume is sandbox.Pauser's. The guest's wall clock is set right.
func (s *Sandbox) Resume(ctx context.Context) error {
	s.state.Lock()
	defer s.state.Unlock()
	return s.Operate(ctx, "resume", func(ctx context.Context) error {
		if !s.paused {
			return nil
		}
		if err := s.machine.cell.Resume(ctx); err != nil {
			return err
		}
		s.paused = false
		return s.Client.Configure(ctx, agentproto.Config{Now: time.Now()})
	})
}

// HostProcesses is sandbox.Inspector's.
func (s *Sandbox) HostProcesses(context.Context) ([]sandbox.HostProcess, error) {
	if err := s.Ended("inspect"); err != nil {
		return nil, err
	}
	process := sandbox.HostProcess{PID: s.machine.cell.PID(), Role: sandbox.RoleGuest}
	if !s.machine.cell.Shares() {
		process.GuestRAM = s.machine.ram
	}
	return []sandbox.HostProcess{process}, nil
}
