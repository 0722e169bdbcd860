// Package qemu drives QEMU: each sandbox is a small virtual machine with a stock Debian kernel and
// the guest agent as its init process.
//
// Where a guest really runs under KVM, KVM is used; elsewhere QEMU's own software emulation (TCG)
// keeps the same contract, and Info says so.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/aethervm/aether/internal/agentsandbox"
	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/keeper"
	"github.com/aethervm/aether/internal/lazy"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// System is the canonical name of the system.
const System = "qemu-kvm"

const binaryName = "qemu-system-x86_64"

// Driver drives QEMU. It implements sandbox.Driver and sandbox.Restorer.
type Driver struct {
	keeper *keeper.Keeper[*lease.Lease]

	accelerator lazy.Value[accelerator]
	guest       lazy.Value[*guestFiles]
	version     lazy.Value[string]
}

// New returns a driver. It starts nothing yet.
func New() (*Driver, error) {
	return &Driver{keeper: keeper.New(System, acquire, (*lease.Lease).Release)}, nil
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

// probeTimeout is what the contract grants Probe.
const probeTimeout = 30 * time.Second

// Probe is sandbox.Driver's. The first one after a boot of the host tries whether a guest runs
// under KVM.
func (d *Driver) Probe(ctx context.Context) sandbox.Info {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout-time.Second)
	defer cancel()
	info := sandbox.Info{System: System}
	if d.keeper.Closed() {
		return info.Because(errors.New("the driver was closed"))
	}
	if _, err := agentsandbox.FindMkfs(System); err != nil {
		return info.Because(err)
	}
	h, err := d.host(ctx)
	info.Version = h.about.QEMU
	if err != nil {
		return info.Because(err)
	}
	info.Available, info.Accelerator, info.Notes = true, h.accel.Name, h.accel.notes()
	info.Notes = append(info.Notes, "guest kernel "+h.about.Kernel,
		fmt.Sprintf("a guest has %d MiB for its kernel beside the memory of its programs", kernelMiB))
	if os.Geteuid() != 0 {
		info.Notes = append(info.Notes, "not root: QEMU runs as the calling user, confined by seccomp only")
	}
	return info
}

// Create is sandbox.Driver's.
func (d *Driver) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	const op = "create"
	spec, err := agentsandbox.Check(op, System, spec)
	if err != nil {
		return nil, err
	}
	if err := spec.RefuseEgressRules(op, System); err != nil {
		return nil, err
	}
	if spec.Network != sandbox.NetworkNone {
		// QEMU's user network would answer at 10.0.2.2 with the host's own loopback services, and
		// has no switch against that.
		return nil, &sandbox.Error{Op: op, System: System, Err: sandbox.ErrUnsupported,
			Detail: "QEMU's user network lets a guest reach the host's loopback", Remedy: "use network \"none\", or another system"}
	}
	return d.start(ctx, op, spec, nil)
}

// start starts a machine from spec, anew or from a saved state.
func (d *Driver) start(ctx context.Context, op string, spec sandbox.Spec, saved *savedState) (sandbox.Sandbox, error) {
	s, err := d.keeper.Start(ctx, op, func(ctx context.Context, owned *lease.Lease) (sandbox.Sandbox, error) {
		return d.launch(ctx, owned, spec, saved)
	})
	if err != nil && ctx.Err() == nil {
		return nil, typed(op, err)
	}
	return s, err
}

// host is what every machine of a driver needs of this host.
type host struct {
	binary string
	guest  *guestFiles
	accel  accelerator
	about  about
}

func (d *Driver) host(ctx context.Context) (h host, err error) {
	if h.binary, err = findBinary(); err != nil {
		return h, err
	}
	if h.guest, err = d.guest.Get(ctx, openGuestFiles); err != nil {
		return h, err
	}
	h.accel, err = d.accelerator.Get(ctx, func(ctx context.Context) (accelerator, error) {
		return chooseAccelerator(ctx, h.binary, h.guest)
	})
	if err != nil {
		return h, err
	}
	number, err := d.version.Get(ctx, func(ctx context.Context) (string, error) { return version(ctx, h.binary) })
	h.about = about{QEMU: number, Accelerator: h.accel.Name, Kernel: h.guest.Kernel.Version}
	return h, err
}

func (d *Driver) launch(ctx context.Context, owned *lease.Lease, spec sandbox.Spec, saved *savedState) (sandbox.Sandbox, error) {
	h, err := d.host(ctx)
	if err != nil {
		return nil, err
	}
	disk, err := agentsandbox.RootDisk(ctx, System, spec.Image)
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	id := lease.NewID()
	s := &Sandbox{
		id: id, spec: spec, about: h.about,
		config: machineConfig{
			id: id, binary: h.binary, accelerator: h.accel.Name, vcpus: spec.VCPUs, memoryMiB: spec.MemoryMiB,
			tscKHz: h.guest.tscKHz,
		},
	}
	if s.machine, err = startMachine(ctx, filepath.Join(owned.Dir, id), s.config, h.guest, disk, saved); err != nil {
		return nil, err
	}
	s.Sandbox = agentsandbox.New(agentsandbox.Config{
		System: System, ID: id, Spec: spec, Machine: s.machine, Keep: true, Forget: func() { d.keeper.Forget(id) },
	})
	if err := s.bringUp(ctx, saved != nil); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close is sandbox.Driver's.
func (d *Driver) Close() error {
	err := d.keeper.Close()
	if guest, ok := d.guest.Take(); ok {
		err = errors.Join(err, guest.Close())
	}
	return err
}

func findBinary() (string, error) { return findTool(binaryName, "qemu-system-x86") }

// version is the number that QEMU calls itself by.
func version(ctx context.Context, binary string) (string, error) {
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", &sandbox.Error{Op: "probe", System: System, Err: sandbox.ErrUnavailable,
			Detail: fmt.Sprintf("%s --version: %v", binary, err), Remedy: "install QEMU again"}
	}
	line, _, _ := strings.Cut(string(out), "\n")
	text, ok := strings.CutPrefix(line, "QEMU emulator version ")
	if !ok {
		return strings.TrimSpace(line), nil
	}
	number, _, _ := strings.Cut(text, " ")
	return number, nil
}
