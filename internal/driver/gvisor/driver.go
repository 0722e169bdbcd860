// Package gvisor drives gVisor through its own command, runsc, on OCI bundles.
//
// There is no daemon: a sandbox is two host processes, the sentry (the kernel that serves guest
// code, with the stub processes in which that code runs) and the gofer (which opens files of the
// image for it), and each operation is one run of runsc. Every sandbox has a state directory
// (--root) and a cgroup of its own, both named after the driver's lease, so that everything that
// belongs to a dead owner can be found by name.
package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/keeper"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// System is gVisor's canonical name.
const System = "gvisor"

// Driver makes gVisor sandboxes. It implements [sandbox.Driver] and [sandbox.Restorer].
type Driver struct {
	keeper    *keeper.Keeper[*ownership]
	installed installed
}

// ownership is what the driver holds on the host as long as it may have sandboxes.
type ownership struct {
	*lease.Lease
	// disks is the directory for the files that hold what sandboxes write to their root file
	// system. It is apart from the lease's directory, which may lie in memory.
	disks string
	// unclean is set when something of a sandbox could not be removed.
	unclean atomic.Bool
}

// New returns a driver. It touches nothing on the host before the first sandbox.
func New() (*Driver, error) {
	return &Driver{keeper: keeper.New(System, own, (*ownership).disown), installed: newInstalled()}, nil
}

// System is sandbox.Driver's.
func (d *Driver) System() string { return System }

// probeTimeout is what the contract grants Probe.
const probeTimeout = 30 * time.Second

// Probe is sandbox.Driver's. The first probe after a boot or an update of runsc starts a sandbox to
// see on which platform it runs.
func (d *Driver) Probe(ctx context.Context) sandbox.Info {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout-time.Second)
	defer cancel()
	info := sandbox.Info{System: System}
	rt, err := d.runtime(ctx)
	if rt != nil {
		info.Version = rt.version
	}
	if err != nil {
		info = info.Because(err)
		if ctx.Err() != nil {
			info.Reason, info.Remedy = "no sandbox started within "+probeTimeout.String(), "try again when the host is less busy"
		}
		return info
	}
	info.Available, info.Accelerator = true, rt.platform
	info.Notes = []string{
		"no outbound network: runsc joins one that a container engine has prepared, it makes none",
		"a sandbox sees two CPUs at least; the quota still holds it to what was asked for",
		"a sandbox that exceeds its limit of memory or processes ends as a whole",
	}
	return info
}

// Create is sandbox.Driver's.
func (d *Driver) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	spec, err := checked("create", spec)
	if err != nil {
		return nil, err
	}
	return d.start(ctx, "create", spec, "")
}

// checked fills in a spec and refuses what this driver cannot do.
func checked(op string, spec sandbox.Spec) (sandbox.Spec, error) {
	spec, err := spec.WithDefaults()
	if err != nil {
		return spec, err
	}
	if err := spec.RefuseEgressRules(op, System); err != nil {
		return spec, err
	}
	if spec.Network == sandbox.NetworkOutbound {
		return spec, &sandbox.Error{Op: op, System: System, Err: sandbox.ErrUnsupported,
			Detail: "runsc makes no outbound network; its --network=host would show the host's own loopback to the guest",
			Remedy: "use the docker system with the runtime runsc, which prepares a network"}
	}
	if info, err := os.Stat(spec.Image.Rootfs); err != nil || !info.IsDir() {
		detail := "image.rootfs " + spec.Image.Rootfs + " is not a directory"
		if err != nil {
			detail = "image.rootfs: " + err.Error()
		}
		return spec, &sandbox.Error{Op: op, System: System, Err: sandbox.ErrInvalid, Detail: detail,
			Remedy: "build the image again with `aether image build`"}
	}
	return spec, nil
}

// start makes a sandbox: anew, or from the checkpoint in directory image.
func (d *Driver) start(ctx context.Context, op string, spec sandbox.Spec, image string) (sandbox.Sandbox, error) {
	s, err := d.keeper.Start(ctx, op, func(ctx context.Context, owned *ownership) (sandbox.Sandbox, error) {
		rt, err := d.runtime(ctx)
		if err != nil {
			return nil, err
		}
		s, err := launch(ctx, rt, owned, spec, image)
		if err != nil {
			return nil, err
		}
		s.forget = func() { d.keeper.Forget(s.id) }
		return s, nil
	})
	if err == nil || ctx.Err() != nil {
		return s, err
	}
	if e := (*sandbox.Error)(nil); errors.As(err, &e) && e.Op != op {
		renamed := *e
		renamed.Op = op
		return nil, &renamed
	}
	return nil, typed(op, "", err)
}

// Close is sandbox.Driver's.
func (d *Driver) Close() error { return d.keeper.Close() }

func disksOf(leaseID string) (string, error) {
	state, err := hostdir.State()
	if err != nil {
		return "", err
	}
	return filepath.Join(state, System, "disks", leaseID), nil
}

func own() (*ownership, error) {
	root, err := hostdir.RunOf(System)
	if err != nil {
		return nil, err
	}
	if err := fits(root); err != nil {
		return nil, err
	}
	l, err := lease.Acquire(root)
	if err != nil {
		return nil, err
	}
	disks, err := disksOf(l.ID)
	if err == nil {
		err = os.MkdirAll(disks, 0o700)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a directory for the sandboxes' disks: %w", err), l.Release())
	}
	return &ownership{Lease: l, disks: disks}, nil
}

// fits checks that runsc's socket can have its name below root. If it could not runsc would put it
// elsewhere, where nobody would find it after a kill.
func fits(root string) error {
	const longest = 107
	id := lease.NewID()
	if n := len(filepath.Join(root, id, id, rootName, "runsc-"+id+".sock")); n > longest {
		return &sandbox.Error{Op: "create", System: System, Err: sandbox.ErrUnavailable,
			Detail: fmt.Sprintf("the name of a socket below %s would have %d bytes of at most %d", root, n, longest),
			Remedy: "set AETHER_RUN to a directory with a shorter path"}
	}
	return nil
}

// disown removes the directories. The lease goes last: as long as it stands a sweeper comes back.
func (o *ownership) disown() error {
	if o.unclean.Load() {
		o.Abandon()
		return errors.New("what could not be removed is left to Sweep")
	}
	if err := os.RemoveAll(o.disks); err != nil {
		o.Abandon()
		return fmt.Errorf("remove the sandboxes' disks: %w", err)
	}
	return o.Release()
}

// either returns a context that ends when ctx or other does, with ctx's values.
func either(ctx, other context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(other, cancel)
	return ctx, func() { stop(); cancel() }
}

// typed makes err an error of the contract.
func typed(op, id string, err error) error {
	if err == nil {
		return nil
	}
	if e := (*sandbox.Error)(nil); errors.As(err, &e) {
		return err
	}
	e := &sandbox.Error{Op: op, System: System, Sandbox: id, Err: sandbox.ErrUnavailable, Detail: err.Error()}
	switch {
	case noSpace(err):
		e.Err, e.Remedy = sandbox.ErrNoSpace, "free disk space or memory on the host"
	case errors.Is(err, fs.ErrPermission):
		e.Err, e.Remedy = fs.ErrPermission, "run as root"
	}
	return e
}
