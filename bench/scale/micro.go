package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/internal/cellbinary"
	"github.com/aethervm/aether/internal/microguest"
)

// microKernel is a file that the loader takes for a kernel: it says "up", and then a byte again and again.
func microKernel() (*os.File, error) {
	on := append(microguest.Say("."), 0xb9, 0, 1, 0, 0, 0xf3, 0x90, 0xff, 0xc9, 0x75, 0xfa) // mov ecx, 256; pause; dec ecx; jnz pause
	return temporary(microguest.Kernel(microguest.Say("up"), on, []byte{0xeb, byte(-len(on) - 2)}))
}

// spoken tells when a guest says something for the first time.
type spoken struct {
	once sync.Once
	said chan struct{}
}

func newSpoken() *spoken { return &spoken{said: make(chan struct{})} }

func (s *spoken) Write(p []byte) (int, error) {
	s.once.Do(func() { close(s.said) })
	return len(p), nil
}

// answered waits for the first word of a guest.
func (s *spoken) answered(ctx context.Context) error {
	select {
	case <-s.said:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Minute):
		return errors.New("a guest has said nothing for a minute")
	}
}

// micro is a herd of cells, each with a guest of a few instructions, which is paused when it has answered: it knows no other
// way to be idle.
type micro struct {
	program  *os.File
	original *cell.Cell
	branch   *cell.Branch
	next     atomic.Int64
	perCell  int // copies that share a process

	mu     sync.Mutex
	copies []*cell.Cell
	shared []*cell.Shared // the processes that copies share; the last one has so many places left
	left   int
}

func (b *bench) newMicro(ctx context.Context) (_ herd, err error) {
	m := &micro{perCell: b.perCell}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if m.program, err = cellbinary.Open(); err != nil {
		return nil, err
	}
	kernel, err := microKernel()
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	up := newSpoken()
	if m.original, err = cell.Start(ctx, cell.Config{ID: m.id(), Program: m.program, Kernel: kernel, VCPUs: 1, MemoryMiB: b.memoryMiB, Console: up}); err != nil {
		return nil, err
	}
	if err := up.answered(ctx); err != nil {
		return nil, err
	}
	if m.branch, err = m.original.Branch(ctx); err != nil {
		return nil, err
	}
	return m, m.original.Pause(ctx)
}

func (m *micro) id() string { return fmt.Sprintf("aether-scale-%d-%d", os.Getpid(), m.next.Add(1)) }

func (m *micro) grow(ctx context.Context, n int) ([]time.Duration, error) {
	return several(ctx, n, func(ctx context.Context) error {
		first := newSpoken()
		c, err := m.start(ctx, cell.Config{ID: m.id(), Program: m.program, From: m.branch, Console: first})
		if err != nil {
			return err
		}
		m.mu.Lock()
		m.copies = append(m.copies, c)
		m.mu.Unlock()
		if err := first.answered(ctx); err != nil {
			return fmt.Errorf("%w: %w", err, c.End())
		}
		return c.Pause(ctx)
	})
}

// start starts a cell, which shares its process if that is so for this herd.
func (m *micro) start(ctx context.Context, cfg cell.Config) (*cell.Cell, error) {
	if m.perCell <= 1 {
		return cell.Start(ctx, cfg)
	}
	s, err := m.place(ctx)
	if err != nil {
		return nil, err
	}
	return s.Start(ctx, cfg)
}

// place is one in a process that has room.
func (m *micro) place(ctx context.Context) (*cell.Shared, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left == 0 {
		s, err := cell.Share(ctx, cell.SharedConfig{Places: m.perCell, SpareConfig: cell.SpareConfig{
			ID: m.id(), Program: m.program, VCPUs: m.branch.VCPUs(), MemoryMiB: m.branch.MemoryMiB(),
		}})
		if err != nil {
			return nil, err
		}
		m.shared, m.left = append(m.shared, s), m.perCell
	}
	m.left--
	return m.shared[len(m.shared)-1], nil
}

func (m *micro) pids() (list []int) {
	for _, c := range m.copies {
		list = append(list, c.PID())
	}
	return list
}

func (m *micro) ram() int64 { return int64(m.branch.MemoryMiB()) << 20 }

func (m *micro) shrink() error {
	errs := make([]error, len(m.copies))
	var all sync.WaitGroup
	for i, c := range m.copies {
		all.Go(func() { errs[i] = c.Close() })
	}
	all.Wait()
	m.copies = nil
	for _, s := range m.shared {
		errs = append(errs, s.Close())
	}
	m.shared, m.left = nil, 0
	return errors.Join(errs...)
}

func (m *micro) Close() error {
	err := m.shrink()
	if m.branch != nil {
		err = errors.Join(err, m.branch.Close())
	}
	if m.original != nil {
		err = errors.Join(err, m.original.Close())
	}
	return err
}
