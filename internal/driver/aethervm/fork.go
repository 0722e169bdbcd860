package aethervm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/agentsandbox"
	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

const (
	// MaxForks bounds the copies of one call.
	MaxForks = 1000
	// freezePatience is how long the programs of the original may take to stop, and to go on. One that hangs in
	// the kernel does not stop, for which the agent waits 10 s.
	freezePatience = time.Minute
)

// Fork is sandbox.Forker's. The programs stand still while the copy is taken: for a time that depends on the
// memory that was written since the sandbox was made or last forked, not on n. In the copies they go on when
// the copy is another machine: with random numbers, a clock, names and addresses of its own. What an Exec of the
// original was to be told or to tell stays with the original; in the copies that program finds its input at an
// end and nobody who reads its output.
func (s *Sandbox) Fork(ctx context.Context, n int) ([]sandbox.Sandbox, error) {
	const op = "fork"
	if n < 1 || n > MaxForks {
		return nil, &sandbox.Error{Op: op, System: System, Sandbox: s.ID(), Err: sandbox.ErrInvalid,
			Detail: fmt.Sprintf("%d copies", n), Remedy: fmt.Sprintf("ask for 1 to %d at a time", MaxForks)}
	}
	var copies []sandbox.Sandbox
	err := s.Operate(ctx, op, func(ctx context.Context) error {
		b, err := s.branch(ctx, op, n)
		if err != nil {
			return err
		}
		copies, err = s.original(b).copies(ctx, op, n)
		return errors.Join(err, b.Close())
	})
	if err != nil {
		return nil, errors.Join(err, closeSandboxes(copies))
	}
	return copies, nil
}

// branch takes what the machine is, for so many copies, while its programs stand still. They go on whatever comes, also when ctx has
// ended.
func (s *Sandbox) branch(ctx context.Context, op string, copies int) (_ *cell.Branch, err error) {
	s.state.Lock()
	defer s.state.Unlock()
	if s.paused {
		return nil, &sandbox.Error{Op: op, System: System, Sandbox: s.ID(), Err: sandbox.ErrUnsupported,
			Detail: "the sandbox is paused, so its programs cannot be prepared", Remedy: "resume it first"}
	}
	release, err := reserve(s.machine.disk)
	if err != nil {
		return nil, err
	}
	defer release()
	// A request that is given up could come after the one to thaw.
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), freezePatience)
	defer cancel()
	var b *cell.Branch
	if err = s.Client.Freeze(whole); err == nil {
		b, err = s.machine.cell.BranchFor(ctx, copies)
	}
	// Whatever the branch has taken.
	late, cancelLate := context.WithTimeout(context.WithoutCancel(ctx), freezePatience)
	defer cancelLate()
	release()
	if err := errors.Join(err, s.thaw(late)); err != nil {
		if b != nil {
			err = errors.Join(err, b.Close())
		}
		return nil, err
	}
	return b, nil
}

// original is what copies are made of. It owns nothing.
type original struct {
	driver *Driver
	spec   sandbox.Spec
	branch *cell.Branch
	disk   *os.File
	bases  *bases // files that the branch's memory is in; nil for none
	// tscKHz is the rate of the guest's time-stamp counter, if it may be another than the host's; else 0.
	tscKHz uint32
	// outside is what each copy has a copy of; nil for none.
	outside sandbox.Outside
}

// original is the sandbox at the moment of a branch of it.
func (s *Sandbox) original(b *cell.Branch) original {
	return original{driver: s.driver, spec: s.spec, branch: b, disk: s.machine.disk, bases: s.machine.bases, tscKHz: s.machine.tscKHz, outside: s.outside}
}

// copies makes n sandboxes, or none.
func (o original) copies(ctx context.Context, op string, n int) ([]sandbox.Sandbox, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cells := o.cellsFor(n)
	var (
		tasks sync.WaitGroup
		turns = make(chan struct{}, 2*runtime.NumCPU()) // more at a time would only wait for each other
		mu    sync.Mutex
		first error
		made  []sandbox.Sandbox
	)
	for i := range n {
		turns <- struct{}{}
		tasks.Go(func() {
			defer func() { <-turns }()
			if ctx.Err() != nil {
				return
			}
			c, err := o.copy(ctx, op, cells.of(i))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				made = append(made, c)
			case first == nil:
				first = err
				cancel()
			}
		})
	}
	tasks.Wait()
	if err := cells.close(); err != nil && first == nil {
		first = err
	}
	if len(made) > 0 && cells == nil {
		o.driver.keeper.Use(func(owned *lease.Lease) { o.driver.spares.fill(owned, size{o.branch.VCPUs(), o.branch.MemoryMiB()}) })
	}
	if first == nil {
		first = ctx.Err()
	}
	if first != nil {
		return nil, errors.Join(first, closeSandboxes(made))
	}
	return made, nil
}

// copy makes a sandbox, in a cell that it shares, or, with nil, in one of its own.
func (o original) copy(ctx context.Context, op string, shared *sharedCell) (sandbox.Sandbox, error) {
	return o.driver.keeper.Start(ctx, op, func(ctx context.Context, owned *lease.Lease) (sandbox.Sandbox, error) {
		c, err := o.start(ctx, op, owned, shared)
		if err != nil {
			return nil, err
		}
		if err := c.wake(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	})
}

// start starts a machine, as copy does. Its programs stand still until it is woken.
func (o original) start(ctx context.Context, op string, owned *lease.Lease, shared *sharedCell) (*Sandbox, error) {
	d, spec := o.driver, o.spec
	if spec.Outside = nil; o.outside != nil {
		spec.Outside = o.outside.Copy()
	}
	through := spec.Outside
	unused := func(err error) error {
		if through != nil {
			err = errors.Join(err, through.Close())
		}
		return err
	}
	net, err := newNetwork(op, spec, d.outside, &d.cards)
	if err != nil {
		return nil, unused(err)
	}
	cfg := cell.Config{From: o.branch, Disks: []*os.File{o.disk}, Network: net.config()}
	var m *machine
	if shared != nil {
		m, err = shared.start(ctx, owned, cfg)
	} else {
		m, err = d.startCell(ctx, owned, cfg)
	}
	if err != nil {
		return nil, unused(err)
	}
	spec.Outside = nil
	m.ram, m.bases, m.tscKHz = int64(o.branch.MemoryMiB())<<20, o.bases.hold(), o.tscKHz
	return &Sandbox{driver: d, spec: spec, machine: m, network: net, outside: through, Sandbox: agentsandbox.New(agentsandbox.Config{
		System: System, ID: m.id, Spec: spec, Machine: m, Keep: true, Forget: func() { d.keeper.Forget(m.id) },
	})}, nil
}

// wake makes a copy another sandbox than its original, and lets its programs go on.
func (s *Sandbox) wake(ctx context.Context) error {
	return s.BringUp(ctx, s.machine.connect, s.becomeCopy)
}

// becomeCopy tells the agent of a copy who it is, and lets its programs go on.
func (s *Sandbox) becomeCopy(ctx context.Context, cfg agentproto.Config) error {
	cfg.Network = s.network.addresses()
	return s.Client.ThawCopy(ctx, cfg)
}

func closeSandboxes(list []sandbox.Sandbox) error {
	errs := make([]error, len(list))
	var tasks sync.WaitGroup
	for i, s := range list {
		tasks.Go(func() { errs[i] = s.Close() })
	}
	tasks.Wait()
	return errors.Join(errs...)
}
