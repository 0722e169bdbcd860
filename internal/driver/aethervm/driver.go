// Package aethervm drives AetherVM, the hypervisor of this repository: each sandbox is a virtual
// machine in a cell, a jailed process of its own, with a stock Linux kernel and the guest agent as its
// init process.
package aethervm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/agentsandbox"
	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/keeper"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/lazy"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vmm"
)

// System is the canonical name of the system.
const System = "aethervm"

// Options select how machines are made. The zero value gives each sandbox a process of its own.
type Options struct {
	// CopiesPerCell is how many copies that one call of Fork or ForkTemplate makes may share a process, 1 to
	// MaxCopiesPerCell; 0 is 1. Together they take less memory and start faster, and have one confinement between them: a guest that
	// breaks out of its machine has those of its process, and they end with it.
	CopiesPerCell int
}

// MaxCopiesPerCell bounds Options.CopiesPerCell.
const MaxCopiesPerCell = cell.MaxPlaces

// Driver drives AetherVM. It implements sandbox.Driver.
type Driver struct {
	perCell     int // copies; at least 1
	keeper      *keeper.Keeper[*lease.Lease]
	guest       lazy.Value[*agentsandbox.Guest]
	confinement lazy.Value[cell.Confinement] // as of a trial
	tsc         lazy.Value[kvm.TSC]
	outside     outside
	spares      spares
	parked      parked
	cards       cards
}

// New returns a driver. It starts nothing yet.
func New(opts Options) (*Driver, error) {
	if opts.CopiesPerCell < 0 || opts.CopiesPerCell > MaxCopiesPerCell {
		return nil, &sandbox.Error{Op: "configure", System: System, Err: sandbox.ErrInvalid,
			Detail: fmt.Sprintf("%d copies in a process", opts.CopiesPerCell), Remedy: fmt.Sprintf("use 1 to %d", MaxCopiesPerCell)}
	}
	return &Driver{perCell: max(opts.CopiesPerCell, 1), keeper: keeper.New(System, acquire, (*lease.Lease).Release)}, nil
}

// acquire takes the lease of a driver, for its first machine.
func acquire() (*lease.Lease, error) {
	root, err := hostdir.RunOf(System)
	if err != nil {
		return nil, err
	}
	return lease.Acquire(root)
}

// System is sandbox.Driver's.
func (d *Driver) System() string { return System }

// Create is sandbox.Driver's.
func (d *Driver) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	const op = "create"
	spec, err := agentsandbox.Check(op, System, spec)
	if err != nil {
		return nil, err
	}
	if spec.VCPUs > vmm.MaxVCPUs {
		return nil, &sandbox.Error{Op: op, System: System, Err: sandbox.ErrUnsupported,
			Detail: fmt.Sprintf("%d vCPUs", spec.VCPUs), Remedy: fmt.Sprintf("ask for %d at most", vmm.MaxVCPUs)}
	}
	s, err := d.keeper.Start(ctx, op, func(ctx context.Context, owned *lease.Lease) (sandbox.Sandbox, error) {
		return d.launch(ctx, op, owned, spec)
	})
	if err != nil && ctx.Err() == nil {
		return nil, agentsandbox.Typed(op, System, "", err)
	}
	return s, err
}

// launch starts a machine and waits until its agent has taken it over.
func (d *Driver) launch(ctx context.Context, op string, owned *lease.Lease, spec sandbox.Spec) (sandbox.Sandbox, error) {
	guest, err := d.host(ctx, op)
	if err != nil {
		return nil, err
	}
	disk, err := agentsandbox.RootDisk(ctx, System, spec.Image)
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	net, err := newNetwork(op, spec, d.outside, &d.cards)
	if err != nil {
		return nil, err
	}
	m, err := d.startMachine(ctx, owned, spec, guest, disk, net.config())
	if err != nil {
		return nil, err
	}
	through := spec.Outside
	spec.Outside = nil // what is made of the spec later has none
	s := &Sandbox{driver: d, spec: spec, machine: m, network: net, Sandbox: agentsandbox.New(agentsandbox.Config{
		System: System, ID: m.id, Spec: spec, Machine: m, Keep: true, Forget: func() { d.keeper.Forget(m.id) },
	})}
	introduce := func(ctx context.Context, cfg agentproto.Config) error {
		cfg.Network = net.addresses()
		return s.Configure(ctx, cfg)
	}
	if err := s.BringUp(ctx, m.connect, introduce); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.outside = through // until now it is the caller's
	return s, nil
}

// host makes sure that this host can run guests, and returns what they boot from.
func (d *Driver) host(ctx context.Context, op string) (*agentsandbox.Guest, error) {
	if err := needKVM(ctx, op); err != nil {
		return nil, err
	}
	return d.guest.Get(ctx, func(ctx context.Context) (*agentsandbox.Guest, error) {
		guest, err := agentsandbox.OpenGuest(ctx, System, guestModules, lateModules...)
		if err != nil {
			return nil, err
		}
		if err := guest.ShareKernel(); err != nil {
			return nil, errors.Join(err, guest.Close())
		}
		return guest, nil
	})
}

// needKVM makes sure that this host can run guests.
func needKVM(ctx context.Context, op string) error {
	reality, err := kvm.Probe(ctx)
	if err != nil {
		return keptError(ctx, op, err)
	}
	if !reality.Real() {
		return &sandbox.Error{Op: op, System: System, Err: sandbox.ErrUnavailable,
			Detail: fmt.Sprintf("%s: %s: %s", kvm.Device, reality.State, reality.Reason), Remedy: reality.Remedy}
	}
	return nil
}

// guestModules are the kernel modules that a guest needs, whichever of them its kernel has as modules.
// That of the sockets is the last: when it is there, the host takes the guest to be ready.
var guestModules = []string{"virtio_mmio", "virtio_blk", "erofs", "overlay", "vmw_vsock_virtio_transport"}

// lateModules are those without which a guest can begin: each takes time that its first program would
// wait for.
var lateModules = []string{"virtio_rng", "virtio_balloon", "virtio_net"}

// probeTimeout is what the contract grants Probe.
const probeTimeout = 30 * time.Second

// Close is sandbox.Driver's.
func (d *Driver) Close() error {
	// In this order: what was made ahead is under the lease that the keeper releases.
	err := errors.Join(d.parked.close(), d.spares.close(), d.keeper.Close())
	if guest, ok := d.guest.Take(); ok {
		err = errors.Join(err, guest.Close())
	}
	return err
}
