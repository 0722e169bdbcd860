package main

import (
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
}

func linux(ctx context.Context, r *record, n int, sizes []int) (err error) {
	b := &bench{record: r}
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
		if err := b.measure(ctx, n, size, floors); err != nil {
			return fmt.Errorf("%d MiB: %w", size, err)
		}
	}
	return nil
}

// measure makes a template of a size, and copies of it in every way in turn.
func (b *bench) measure(ctx context.Context, n, size int, floors *floors) (err error) {
	plain, err := b.template(ctx, size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	ahead, err := b.withPrefetch(ctx, plain, size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ahead.Close()) }()
	suffix := fmt.Sprintf(" memory=%dMiB", size)
	for range n {
		if err := floors.fork(); err != nil {
			return err
		}
		for _, way := range []struct {
			name   string
			from   *cell.Branch
			spare  bool
			parked bool
		}{
			{"cell", plain, false, false}, {"spare-cell", plain, true, false}, {"spare-cell-mapped-ahead", ahead, true, false},
			{"parked", ahead, true, true},
		} {
			if err := b.copy(ctx, way.name+suffix, way.from, way.spare, way.parked); err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
		}
	}
	return nil
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
	return c.Branch(ctx)
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
