// Package docker drives the Docker Engine through its API.
//
// A sandbox is a container as people run them: Docker's default capabilities, seccomp profile and
// masked paths, with limits on memory, CPU time and processes, and no network. What the driver adds
// is no-new-privileges and the guest agent, which is PID 1 and is bind-mounted read-only. Runtimes
// that the engine knows beside runc (runsc, Kata) are an option.
//
// The engine must run on this host, since it mounts the guest agent from here.
package docker

import (
	"context"
	"errors"
	"sync"

	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// system is the canonical name.
const system = "docker"

// Options select the engine and how it runs containers. The zero value is usable.
type Options struct {
	// Host is the engine's address, "unix:///path". Empty: $DOCKER_HOST, aether's own engine
	// (scripts/peers-docker), Docker's default socket, whichever answers first.
	Host string
	// Runtime is a runtime that the engine lists, such as "runsc". Empty: the engine's default.
	Runtime string
}

// Driver drives one engine. It reaches out for it at the first call that needs it.
type Driver struct {
	opts   Options
	leases string // directory of the leases

	// life ends when the driver is closed; it interrupts what is under way.
	life context.Context
	end  context.CancelCauseFunc
	busy sync.WaitGroup // creations under way

	mu     sync.Mutex
	closed bool
	eng    *engine
	lease  *lease.Lease
	open   map[string]*Sandbox
}

var (
	_ sandbox.Driver          = (*Driver)(nil)
	_ sandbox.Restorer        = (*Driver)(nil)
	_ sandbox.DaemonInspector = (*Driver)(nil)
)

// New returns a driver. It fails only where this host has no place for leases.
func New(opts Options) (*Driver, error) {
	leases, err := hostdir.RunOf(system)
	if err != nil {
		return nil, &sandbox.Error{Op: "open", System: system, Err: sandbox.ErrUnavailable, Detail: err.Error()}
	}
	d := &Driver{opts: opts, leases: leases, open: map[string]*Sandbox{}}
	d.life, d.end = context.WithCancelCause(context.Background())
	return d, nil
}

// System is Driver.System.
func (d *Driver) System() string { return system }

// Create is Driver.Create.
func (d *Driver) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	spec, err := spec.WithDefaults()
	if err != nil {
		return nil, err
	}
	ctx, eng, owner, done, err := d.begin(ctx, "create")
	if err != nil {
		return nil, err
	}
	defer done()
	ref, err := eng.importImage(ctx, spec.Image)
	if err != nil {
		return nil, eng.fail(ctx, "create", "", err)
	}
	return d.start(ctx, eng, owner, spec, origin{image: ref})
}

// begin opens a creation: it connects to the engine, takes the driver's lease, and returns a
// context that ends with the driver. The caller calls done when the sandbox is made and registered.
func (d *Driver) begin(ctx context.Context, op string) (_ context.Context, eng *engine, owner *lease.Lease, done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, nil, nil, err
	}
	eng, err = d.connect(ctx)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, nil, nil, nil, errDriverClosed(op)
	}
	if d.lease == nil {
		if d.lease, err = lease.Acquire(d.leases); err != nil {
			return nil, nil, nil, nil, &sandbox.Error{Op: op, System: system, Err: sandbox.ErrUnavailable,
				Detail: err.Error(), Remedy: "run as root, or set AETHER_RUN to a directory of your own"}
		}
	}
	ctx, stop := joined(ctx, d.life)
	d.busy.Add(1)
	return ctx, eng, d.lease, func() { stop(); d.busy.Done() }, nil
}

// connect returns the driver's engine, which it looks for until it has found one.
func (d *Driver) connect(ctx context.Context) (*engine, error) {
	d.mu.Lock()
	eng, closed := d.eng, d.closed
	d.mu.Unlock()
	if closed {
		return nil, errDriverClosed("connect")
	}
	if eng != nil {
		return eng, nil
	}
	found, err := findEngine(ctx, d.opts)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		found.close()
		return nil, errDriverClosed("connect")
	case d.eng != nil: // somebody else was faster
		found.close()
	default:
		d.eng = found
	}
	return d.eng, nil
}

// register makes s one of the driver's open sandboxes.
func (d *Driver) register(s *Sandbox) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errDriverClosed("create")
	}
	d.open[s.id] = s
	return nil
}

func (d *Driver) unregister(s *Sandbox) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, s.id)
}

// Close is Driver.Close.
func (d *Driver) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.end(errDriverClosed("create"))
	d.busy.Wait()

	d.mu.Lock()
	open := make([]*Sandbox, 0, len(d.open))
	for _, s := range d.open {
		open = append(open, s)
	}
	eng, owner := d.eng, d.lease
	d.eng, d.lease = nil, nil
	d.mu.Unlock()

	errs := make([]error, len(open))
	var wg sync.WaitGroup
	for i, s := range open {
		wg.Go(func() { errs[i] = s.Close() })
	}
	wg.Wait()
	if owner != nil {
		// Also after a failure: what is left then has a lease that is gone, and a sweep removes it.
		errs = append(errs, owner.Release())
	}
	if eng != nil {
		eng.close()
	}
	return errors.Join(errs...)
}

func errDriverClosed(op string) error {
	return &sandbox.Error{Op: op, System: system, Err: sandbox.ErrClosed, Detail: "the driver is closed"}
}

// joined returns a copy of ctx that also ends when other does, with other's cause.
func joined(ctx, other context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(other, func() { cancel(context.Cause(other)) })
	return ctx, func() { stop(); cancel(nil) }
}
