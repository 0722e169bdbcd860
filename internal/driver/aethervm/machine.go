package aethervm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/agentsandbox"
	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/internal/cellbinary"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vmm"
)

// A guest's RAM is what its programs may use and, on top, what the guest itself takes: the kernel with
// its initial file system, page tables, slabs and the agent, and a page descriptor of 64 bytes for each
// page of 4 KiB. The host only pays for pages that the guest touches.
const (
	kernelBaseMiB = 96
	kernelShare   = 4096 / 64
)

// ramMiB is the RAM of a guest whose programs may use so much.
func ramMiB(programs int) int { return programs + kernelBaseMiB + programs/kernelShare }

// cellsOf is how the names of all cells of a lease begin; the sandbox's ID follows.
func cellsOf(leaseID string) string { return "aether-" + leaseID + "-" }

// machine is a cell. It implements agentsandbox.Machine and Channel.
type machine struct {
	id   string // the sandbox's
	dir  string // its mark in the lease
	cell *cell.Cell
	ram  int64    // bytes
	disk *os.File // for its copies
	// bases are the files that its memory is mapped from; a share of them is its own. It may be nil, for none.
	bases *bases
	// tscKHz is as in original.
	tscKHz uint32

	closing sync.Once
	err     error
}

// startMachine starts a cell. The guest is booting when it returns. When ctx ends, what was begun is
// undone.
func (d *Driver) startMachine(ctx context.Context, owned *lease.Lease, spec sandbox.Spec, guest *agentsandbox.Guest, disk *os.File, network *vmm.Network) (*machine, error) {
	ram := ramMiB(spec.MemoryMiB)
	m, err := d.startCell(ctx, owned, cell.Config{
		Kernel: guest.Image, Initramfs: guest.Initrd, Disks: []*os.File{disk},
		Cmdline: agentsandbox.Cmdline(nil, agentproto.InitVsock),
		VCPUs:   spec.VCPUs, MemoryMiB: ram, Network: network,
	})
	if err != nil {
		return nil, err
	}
	m.ram = int64(ram) << 20
	return m, nil
}

// startCell starts a cell with one disk, of which it keeps a descriptor of its own, under a new ID. It fills in what all
// cells have. A spare cell is used if there is one of that size.
func (d *Driver) startCell(ctx context.Context, owned *lease.Lease, cfg cell.Config) (_ *machine, err error) {
	of := size{cfg.VCPUs, cfg.MemoryMiB}
	if cfg.From != nil {
		of = size{cfg.From.VCPUs(), cfg.From.MemoryMiB()}
	}
	if spare := d.spares.take(of); spare != nil {
		m, err := newMachine(ctx, owned, strings.TrimPrefix(spare.ID(), cellsOf(owned.ID)), cfg, spare.Start)
		if err == nil {
			return m, nil
		}
		closeErr := spare.Close()
		if ctx.Err() != nil || !errors.Is(err, cell.ErrEnded) {
			return nil, errors.Join(err, closeErr)
		}
		// Somebody has ended it at this very moment.
	}
	if cfg.Program, err = openProgram(); err != nil {
		return nil, err
	}
	id := lease.NewID()
	cfg.ID = cellsOf(owned.ID) + id
	return newMachine(ctx, owned, id, cfg, cell.Start)
}

// newMachine starts a cell, by start, and marks it in the lease.
func newMachine(ctx context.Context, owned *lease.Lease, id string, cfg cell.Config, start func(context.Context, cell.Config) (*cell.Cell, error)) (*machine, error) {
	m := &machine{id: id, dir: filepath.Join(owned.Dir, id)}
	var err error
	if m.disk, err = duplicate(cfg.Disks[0]); err != nil {
		return nil, err
	}
	// First of all: a sweeper counts what was left by these.
	if err := os.Mkdir(m.dir, 0o700); err != nil {
		return nil, errors.Join(err, m.disk.Close())
	}
	if m.cell, err = start(ctx, cfg); err != nil {
		return nil, errors.Join(err, m.disk.Close(), os.Remove(m.dir))
	}
	return m, nil
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// openProgram opens what cells execute. It stays open.
func openProgram() (*os.File, error) {
	program, err := cellbinary.Open()
	if err != nil {
		return nil, &sandbox.Error{Op: "probe", System: System, Err: sandbox.ErrUnavailable,
			Detail: err.Error(), Remedy: "build aether with `make build`"}
	}
	return program, nil
}

// connect makes a channel of the guest's sockets. Dial waits for a guest that is booting.
func (m *machine) connect(context.Context) (agentsandbox.Channel, error) { return channel{m.cell}, nil }

// channel is a connection an operation. It implements agentsandbox.Channel.
type channel struct{ cell *cell.Cell }

// Dial connects to the agent.
func (c channel) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := c.cell.Dial(ctx, agentproto.Port)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("reach the guest agent: %w", err)
	}
	return conn, err
}

// Lost is nil: the agent is init, so that a guest without it ends.
func (channel) Lost() <-chan struct{} { return nil }

// Close has nothing to do: the connections end with the cell.
func (channel) Close() {}

// Exited is closed when the guest, or its process, has ended.
func (m *machine) Exited() <-chan struct{} { return m.cell.Done() }

// Explain adds what the guest and its process said last to an error that stems from their end.
func (m *machine) Explain(err error) error {
	select {
	case <-m.cell.Done():
	case <-time.After(5 * time.Second): // a connection ends a moment before the process does
		return err
	}
	end := m.cell.End()
	if errors.Is(end, cell.ErrMemory) {
		return fmt.Errorf("%w: %w: %w", err, agentsandbox.ErrMemory, end)
	}
	return fmt.Errorf("%w: %w", err, end)
}

// Kill ends the process and waits for it. What it had is removed by Close.
func (m *machine) Kill() { _ = m.cell.Close() } // Close returns the same error

// Close kills the process and removes what it had. It is idempotent.
func (m *machine) Close() error {
	m.closing.Do(func() {
		if m.err = m.cell.Close(); m.err == nil {
			m.err = os.Remove(m.dir) // else it is left to Sweep
		}
		m.err = errors.Join(m.err, m.disk.Close(), m.bases.release())
	})
	return m.err
}
