package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/agentsandbox"
	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/internal/cellbinary"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/vmm"
)

// What the driver's guests load, and when.
var (
	modules     = []string{"virtio_mmio", "virtio_blk", "erofs", "overlay", "vmw_vsock_virtio_transport"}
	lateModules = []string{"virtio_rng", "virtio_balloon", "virtio_net"}
)

// warmUp has Python in the page cache, with what most programs import.
var warmUp = []string{"python3", "-c", "import json, re, os, sys, random, datetime, collections, urllib.parse"}

// coldStarts is how often a guest is booted: it takes seconds.
const coldStarts = 3

// bench is what all guests have in common.
type bench struct {
	record  *record
	program *os.File
	guest   *agentsandbox.Guest
	disk    *os.File
	dir     string
	ids     int
	// expected is how many copies a branch is told to be for.
	expected int
}

func linux(ctx context.Context, r *record, n, expected int, sizes, depths []int) (err error) {
	b := &bench{record: r, expected: expected}
	if b.program, err = cellbinary.Open(); err != nil {
		return err
	}
	if b.guest, err = agentsandbox.OpenGuest(ctx, "aethervm", modules, lateModules...); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.guest.Close()) }()
	if err := b.guest.ShareKernel(); err != nil {
		return err
	}
	store, err := image.Default()
	if err != nil {
		return err
	}
	img, err := store.Resolve(image.DefaultName)
	if err != nil {
		return err
	}
	if b.disk, err = agentsandbox.RootDisk(ctx, "aethervm", img); err != nil {
		return err
	}
	defer b.disk.Close()
	if b.dir, err = os.MkdirTemp("", "aether-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	floors, err := newFloors(r, sizes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floors.close()) }()
	for _, size := range sizes {
		if err := b.measure(ctx, n, size, depths, floors); err != nil {
			return fmt.Errorf("%d MiB: %w", size, err)
		}
	}
	return nil
}

// lineage is what copies of one depth are made from.
type lineage struct {
	name  string
	plain *cell.Branch
	ahead *cell.Branch // as a template on disk is, with a list of what copies use; nil of copies of copies, which have no file
}

// ways returns how copies are made, in the order of how much is done ahead.
func (g *lineage) ways() []way {
	list := []way{{"cell", g.plain, false, false}, {"spare-cell", g.plain, true, false}}
	if g.ahead != nil {
		list = append(list, way{"spare-cell-mapped-ahead", g.ahead, true, false}, way{"parked", g.ahead, true, true})
	}
	return list
}

type way struct {
	name          string
	from          *cell.Branch
	spare, parked bool
}

func (g *lineage) Close() error {
	if g.ahead == nil {
		return g.plain.Close()
	}
	return errors.Join(g.ahead.Close(), g.plain.Close()) // one that is closed twice is closed
}

// measure makes a template of a size, and copies of it, and of its copies, in every way in turn.
func (b *bench) measure(ctx context.Context, n, size int, depths []int, floors *floors) (err error) {
	plain, err := b.template(ctx, size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	var lineages []*lineage
	defer func() {
		for _, g := range lineages {
			err = errors.Join(err, g.Close())
		}
	}()
	for _, depth := range depths {
		g := &lineage{name: fmt.Sprintf(" memory=%dMiB depth=%d", size, depth)}
		if g.plain, err = b.descend(ctx, plain, depth-1); err != nil {
			return fmt.Errorf("depth %d: %w", depth, err)
		}
		lineages = append(lineages, g)
		if err := b.describe(ctx, g); err != nil {
			return err
		}
		if depth == 1 {
			if g.ahead, err = b.withPrefetch(ctx, plain, size); err != nil {
				return err
			}
		}
	}
	for range n {
		if err := floors.fork(); err != nil {
			return err
		}
		for _, g := range lineages {
			for _, w := range g.ways() {
				if err := b.copy(ctx, w.name+g.name, w.from, w.spare, w.parked); err != nil {
					return fmt.Errorf("%s%s: %w", w.name, g.name, err)
				}
			}
		}
	}
	return nil
}

// describe tells what copies are made of, and what mappings that takes in each.
func (b *bench) describe(ctx context.Context, g *lineage) (err error) {
	layers, size, err := g.plain.Layers()
	if err != nil {
		return err
	}
	c, err := cell.Start(ctx, cell.Config{ID: b.id(), Program: b.program, From: g.plain, Disks: []*os.File{b.disk}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", c.PID()))
	if err != nil {
		return err
	}
	fmt.Printf("#%s: %d layers of %d KiB, %d mappings of them in a copy\n", g.name, layers, size>>10, bytes.Count(maps, []byte("aether-guest-memory")))
	return nil
}

// descend makes a copy, and a copy of that, and so on, so many times, each of which becomes a sandbox and runs a program,
// and returns a branch of the last one; without any, the branch that it was given.
func (b *bench) descend(ctx context.Context, first *cell.Branch, times int) (*cell.Branch, error) {
	last := first
	for range times {
		next, err := b.generation(ctx, last)
		if last != first {
			err = errors.Join(err, last.Close())
		}
		if err != nil {
			return nil, err
		}
		last = next
	}
	return last, nil
}

func (b *bench) generation(ctx context.Context, from *cell.Branch) (_ *cell.Branch, err error) {
	c, err := cell.Start(ctx, cell.Config{ID: b.id(), Program: b.program, From: from, Disks: []*os.File{b.disk}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	agent := client(c)
	defer agent.Close()
	if err := agent.Thaw(ctx, b.identity()); err != nil {
		return nil, err
	}
	if err := errors.Join(exec(ctx, agent, "true"), agent.Freeze(ctx)); err != nil {
		return nil, err
	}
	l := b.record.start(fmt.Sprintf("branch memory=%dMiB", from.MemoryMiB()))
	branch, err := c.BranchFor(ctx, b.expected)
	l.lap("branch")
	return branch, err
}

func (b *bench) id() string {
	b.ids++
	return fmt.Sprintf("aether-bench-%d", b.ids)
}

func client(c *cell.Cell) *agentproto.Client {
	return &agentproto.Client{Dial: channel{c}.Dial, Keep: true}
}

// identity is what makes a copy another sandbox.
func (b *bench) identity() agentproto.Config {
	return agentproto.Config{
		Hostname: b.id(), Now: time.Now(), Entropy: make([]byte, 32), Processes: 256, MachineID: [16]byte{byte(b.ids), byte(b.ids >> 8), 1},
	}
}

// exec runs a program that has to succeed.
func exec(ctx context.Context, c *agentproto.Client, args ...string) error {
	exit, err := c.Exec(ctx, agentproto.Exec{Args: args, Env: []string{"PATH=/usr/bin:/bin"}, Dir: "/"}, nil, nil, nil)
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("%q: %+v", args, exit)
	}
	return err
}

// template boots guests, which is measured, and makes of the last one what copies are made of.
func (b *bench) template(ctx context.Context, size int) (_ *cell.Branch, err error) {
	for i := 0; ; i++ {
		l := b.record.start(fmt.Sprintf("boot memory=%dMiB", size))
		c, err := cell.Start(ctx, cell.Config{
			ID: b.id(), Program: b.program, Kernel: b.guest.Image, Initramfs: b.guest.Initrd, Disks: []*os.File{b.disk},
			Cmdline: agentsandbox.Cmdline(nil, agentproto.InitVsock), VCPUs: 1, MemoryMiB: size,
		})
		if err != nil {
			return nil, err
		}
		l.lap("start")
		branch, err := b.grow(ctx, l, c, i == coldStarts-1)
		if err := errors.Join(err, c.Close()); err != nil {
			return nil, err
		}
		if branch != nil {
			return branch, nil
		}
	}
}

// grow measures a guest's first steps, and branches it in the end if it is to.
func (b *bench) grow(ctx context.Context, l *laps, c *cell.Cell, last bool) (*cell.Branch, error) {
	agent := client(c)
	defer agent.Close()
	err := agent.Ping(ctx)
	l.lap("ping")
	if err == nil {
		err = agent.Configure(ctx, b.identity())
		l.lap("identity")
	}
	if err == nil {
		err = exec(ctx, agent, "true")
		l.lap("true")
	}
	if err != nil || !last {
		return nil, err
	}
	if err := errors.Join(exec(ctx, agent, warmUp...), agent.Freeze(ctx)); err != nil {
		return nil, err
	}
	return c.BranchFor(ctx, b.expected)
}

// withPrefetch is the same in a file, with a list of what a copy uses until its first program has ended.
func (b *bench) withPrefetch(ctx context.Context, plain *cell.Branch, size int) (*cell.Branch, error) {
	c, err := cell.Start(ctx, cell.Config{ID: b.id(), Program: b.program, From: plain, Disks: []*os.File{b.disk}})
	if err != nil {
		return nil, err
	}
	agent := client(c)
	var runs []snapshot.Run
	if err = agent.Thaw(ctx, b.identity()); err == nil {
		if err = exec(ctx, agent, "true"); err == nil {
			runs, err = c.Touched(ctx)
		}
	}
	agent.Close()
	if err := errors.Join(err, c.Close()); err != nil {
		return nil, err
	}
	w, err := snapshot.Create(filepath.Join(b.dir, fmt.Sprint(size)))
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Abort() }()
	state, err := plain.Save(ctx, w)
	if err != nil {
		return nil, err
	}
	if _, err := w.Finish(snapshot.About{VCPUs: 1, MemoryMiB: uint32(size)}, state, runs); err != nil {
		return nil, err
	}
	f, err := snapshot.Open(filepath.Join(b.dir, fmt.Sprint(size)))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if state, err = vmm.SavedState(f, uint64(size)<<20); err != nil {
		return nil, err
	}
	return cell.OpenSaved(cell.Saved{VCPUs: 1, MemoryMiB: size, Disks: 1, State: state, Memory: f.File()})
}

// copy makes one copy and has it run programs.
func (b *bench) copy(ctx context.Context, name string, from *cell.Branch, ahead, parked bool) (err error) {
	cfg := cell.Config{ID: b.id(), Program: b.program, From: from, Disks: []*os.File{b.disk}}
	start := cell.Start
	if ahead {
		spare, err := cell.Prepare(ctx, cell.SpareConfig{ID: cfg.ID, Program: b.program, VCPUs: from.VCPUs(), MemoryMiB: from.MemoryMiB()})
		if err != nil {
			return err
		}
		start = spare.Start
	}
	l := b.record.start(name)
	c, err := start(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	agent := client(c)
	defer agent.Close()
	if parked { // as the driver does it
		if err := errors.Join(agent.Configure(ctx, b.identity()), c.Pause(ctx)); err != nil {
			return err
		}
		l = b.record.start(name)
		if err := c.Resume(ctx); err != nil {
			return err
		}
	}
	l.lap("start")
	for _, s := range []struct {
		name string
		do   func() error
	}{
		{"ping", func() error { return agent.Ping(ctx) }},
		{"identity", func() error { return agent.Thaw(ctx, b.identity()) }},
		{"true", func() error { return exec(ctx, agent, "true") }},
		{"true-again", func() error { return exec(ctx, agent, "true") }},
		{"python", func() error { return exec(ctx, agent, "python3", "-c", "print(1)") }},
	} {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		l.lap(s.name)
	}
	return nil
}
