package cell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/aethervm/aether/vmm"
)

// SpareConfig is what a cell is made of before it has a virtual machine: as in Config.
type SpareConfig struct {
	ID      string
	Program *os.File
	// VCPUs and MemoryMiB are those of the virtual machine to come: the cell is limited to what that needs.
	VCPUs, MemoryMiB int
}

// Spare is a cell without a virtual machine: its process runs and is confined, has nothing of anybody, and waits to be
// told what to build. That takes most of the time that the start of a cell takes. It ends with its owner,
// like any cell. Its methods may be called concurrently.
type Spare struct{ cell *Cell }

// Prepare starts the process of a cell. When ctx ends before it is confined, what was begun is undone.
func Prepare(ctx context.Context, cfg SpareConfig) (*Spare, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return prepare(ctx, cfg, trial{})
}

func prepare(ctx context.Context, cfg SpareConfig, try trial) (*Spare, error) {
	p := newProcess(cfg, 0, try)
	c := newCell(Config{ID: cfg.ID, Program: cfg.Program, VCPUs: cfg.VCPUs, MemoryMiB: cfg.MemoryMiB}, p)
	err := p.begin(ctx, c.console, c.handle, func() {
		c.link = p.link
		go c.watch()
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start cell %s: %w", cfg.ID, err), c.Close())
	}
	return &Spare{c}, nil
}

// Start has the cell build a virtual machine, and takes it over, also if it fails. ID and Program are the spare's; the
// number of processors and the memory must be those that it was prepared for. It is called once.
func (s *Spare) Start(ctx context.Context, cfg Config) (*Cell, error) {
	c := s.cell
	cfg.settle()
	cfg.ID, cfg.Program = c.cfg.ID, c.cfg.Program
	err := c.process.check(&cfg)
	if err == nil {
		c.cfg = cfg
		err = c.boot(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start cell %s: %w", cfg.ID, err), c.Close())
	}
	return c, nil
}

// check holds a configuration to what the process was made for.
func (p *process) check(cfg *Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	if cfg.VCPUs != p.vcpus || cfg.MemoryMiB != p.memoryMiB {
		return badConfig("%d vCPUs and %d MiB of memory in a cell for %d and %d", cfg.VCPUs, cfg.MemoryMiB, p.vcpus, p.memoryMiB)
	}
	return nil
}

// ID is that of the SpareConfig.
func (s *Spare) ID() string { return s.cell.cfg.ID }

// PID is the process's ID.
func (s *Spare) PID() int { return s.cell.process.pid }

// Done is closed when the process has ended, which it only does by itself when something is wrong.
func (s *Spare) Done() <-chan struct{} { return s.cell.done }

// Close ends the process and frees what it has. It is idempotent. After Start that is the cell's.
func (s *Spare) Close() error { return s.cell.Close() }

func (c *SpareConfig) check() error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
	switch {
	case c.ID == "" || len(c.ID) > maxID || strings.Trim(c.ID, letters) != "" || c.ID[0] == '-':
		return badConfig("ID %q: 1 to %d letters, digits and '-' are needed", c.ID, maxID)
	case c.Program == nil:
		return badConfig("no program")
	case c.VCPUs < 1 || c.VCPUs > vmm.MaxVCPUs:
		return badConfig("%d vCPUs; 1 to %d are possible", c.VCPUs, vmm.MaxVCPUs)
	case c.MemoryMiB < vmm.MinMemoryMiB || c.MemoryMiB > vmm.MaxMemoryMiB:
		return badConfig("%d MiB of memory; %d to %d are possible", c.MemoryMiB, vmm.MinMemoryMiB, vmm.MaxMemoryMiB)
	}
	return nil
}
