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
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// System is the canonical name of the system.
const System = "qemu-kvm"

const binaryName = "qemu-system-x86_64"

// Driver drives QEMU. It implements sandbox.Driver and sandbox.Restorer.
type Driver struct {
	alive    context.Context // until Close
	end      context.CancelFunc
	starting sync.WaitGroup // machines that are being started

	accelerator once[accelerator]
	guest       once[*guestFiles]
	version     once[string]

	mu        sync.Mutex
	closed    bool
	lease     *lease.Lease // taken for the first machine
	sandboxes map[string]*Sandbox
}

// New returns a driver. It starts nothing yet.
func New() (*Driver, error) {
	d := &Driver{sandboxes: map[string]*Sandbox{}}
	d.alive, d.end = context.WithCancel(context.Background())
	return d, nil
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
	fail := func(err error) sandbox.Info {
		info.Reason = err.Error()
		if e, ok := errors.AsType[*sandbox.Error](err); ok {
			info.Reason, info.Remedy = e.Detail, e.Remedy
		}
		return info
	}
	if d.alive.Err() != nil {
		return fail(errors.New("the driver was closed"))
	}
	if _, err := findTool("mkfs.erofs", "erofs-utils"); err != nil {
		return fail(err)
	}
	h, err := d.host(ctx)
	info.Version = h.about.QEMU
	if err != nil {
		return fail(err)
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
	spec, err := spec.WithDefaults()
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(spec.Image.Rootfs); err != nil || !info.IsDir() {
		return nil, &sandbox.Error{Op: op, System: System, Err: sandbox.ErrInvalid,
			Detail: fmt.Sprintf("image.rootfs %s is no directory", spec.Image.Rootfs),
			Remedy: "build the image again with `aether image build`"}
	}
	if spec.Network != sandbox.NetworkNone {
		// QEMU's user network would answer at 10.0.2.2 with the host's own loopback services, and
		// has no switch against that.
		return nil, &sandbox.Error{Op: op, System: System, Err: sandbox.ErrUnsupported,
			Detail: "QEMU's user network lets a guest reach the host's loopback", Remedy: "use network \"none\", or another system"}
	}
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		return nil, typed(op, "", fmt.Errorf("read the host's memory: %w", err))
	}
	if total := host.Totalram * uint64(host.Unit) >> 20; uint64(spec.MemoryMiB) > total {
		return nil, &sandbox.Error{Op: op, System: System, Err: sandbox.ErrNoSpace,
			Detail: fmt.Sprintf("a guest of %d MiB on a host of %d MiB", spec.MemoryMiB, total), Remedy: "ask for less memory"}
	}
	return d.start(ctx, op, spec, nil)
}

// start starts a machine from spec, anew or from a saved state.
func (d *Driver) start(ctx context.Context, op string, spec sandbox.Spec, saved *savedState) (*Sandbox, error) {
	owned, err := d.begin(op)
	if err != nil {
		return nil, err
	}
	defer d.starting.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(d.alive, func() {
		cancel(&sandbox.Error{Op: op, System: System, Err: sandbox.ErrClosed, Detail: "the driver was closed"})
	})()

	s, err := d.launch(ctx, owned, spec, saved)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, typed(op, "", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sandboxes[s.id] = s // Close waits for starting before it looks here
	return s, nil
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
	if h.guest, err = d.guest.get(ctx, openGuestFiles); err != nil {
		return h, err
	}
	h.accel, err = d.accelerator.get(ctx, func(ctx context.Context) (accelerator, error) {
		return chooseAccelerator(ctx, h.binary, h.guest)
	})
	if err != nil {
		return h, err
	}
	number, err := d.version.get(ctx, func(ctx context.Context) (string, error) { return version(ctx, h.binary) })
	h.about = about{QEMU: number, Accelerator: h.accel.Name, Kernel: h.guest.kernel.Version}
	return h, err
}

func (d *Driver) launch(ctx context.Context, owned *lease.Lease, spec sandbox.Spec, saved *savedState) (*Sandbox, error) {
	h, err := d.host(ctx)
	if err != nil {
		return nil, err
	}
	disk, err := rootDisk(ctx, spec.Image)
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
		forget: func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			delete(d.sandboxes, id)
		},
	}
	s.alive, s.end = context.WithCancelCause(context.Background())
	if s.machine, err = startMachine(ctx, filepath.Join(owned.Dir, id), s.config, h.guest, disk, saved); err != nil {
		return nil, err
	}
	if err := s.bringUp(ctx, saved != nil); err != nil {
		return nil, errors.Join(err, s.machine.close())
	}
	return s, nil
}

// begin registers a start and makes sure that there is a lease. The caller calls starting.Done.
func (d *Driver) begin(op string) (*lease.Lease, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, &sandbox.Error{Op: op, System: System, Err: sandbox.ErrClosed, Detail: "the driver was closed"}
	}
	if d.lease == nil {
		root, err := hostdir.RunOf(System)
		if err != nil {
			return nil, typed(op, "", err)
		}
		if d.lease, err = lease.Acquire(root); err != nil {
			return nil, typed(op, "", err)
		}
	}
	d.starting.Add(1)
	return d.lease, nil
}

// Close is sandbox.Driver's.
func (d *Driver) Close() error {
	d.end()
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.starting.Wait()

	d.mu.Lock()
	open := make([]*Sandbox, 0, len(d.sandboxes))
	for _, s := range d.sandboxes {
		open = append(open, s)
	}
	owned := d.lease
	d.lease = nil
	d.mu.Unlock()

	errs := make([]error, len(open))
	var wg sync.WaitGroup
	for i, s := range open {
		wg.Go(func() { errs[i] = s.Close() })
	}
	wg.Wait()
	if guest, ok := d.guest.take(); ok {
		errs = append(errs, guest.close())
	}
	if owned != nil {
		errs = append(errs, owned.Release())
	}
	return errors.Join(errs...)
}

func findBinary() (string, error) { return findTool(binaryName, "qemu-system-x86") }

func findTool(name, pkg string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &sandbox.Error{Op: "probe", System: System, Err: sandbox.ErrUnavailable,
			Detail: name + " is not installed", Remedy: "run `make peers`, or `apt-get install " + pkg + "`"}
	}
	return path, nil
}

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
