package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/driver/aethervm"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/sandbox"
)

// linux is a herd of sandboxes.
type linux struct {
	driver   sandbox.Driver
	original sandbox.Sandbox
	size     int64
	atOnce   int // 0 for all
	copies   []sandbox.Sandbox
}

func (b *bench) newLinux(ctx context.Context) (_ herd, err error) {
	l := &linux{atOnce: b.atOnce}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	store, err := image.Default()
	if err != nil {
		return nil, err
	}
	img, err := store.Resolve(image.DefaultName)
	if err != nil {
		return nil, err
	}
	if l.driver, err = aethervm.New(aethervm.Options{CopiesPerCell: b.perCell}); err != nil {
		return nil, err
	}
	if l.original, err = l.driver.Create(ctx, sandbox.Spec{Image: img, MemoryMiB: b.memoryMiB}); err != nil {
		return nil, err
	}
	if err := answers(ctx, l.original); err != nil {
		return nil, err
	}
	processes, err := l.processes(ctx, l.original)
	if err != nil {
		return nil, err
	}
	l.size = processes[0].GuestRAM
	return l, nil
}

func answers(ctx context.Context, s sandbox.Sandbox) error {
	exit, err := s.Exec(ctx, sandbox.Cmd{Args: []string{"true"}})
	if err == nil && !exit.Success() {
		err = fmt.Errorf("true: %v", exit)
	}
	return err
}

func (l *linux) processes(ctx context.Context, s sandbox.Sandbox) ([]sandbox.HostProcess, error) {
	list, err := s.(sandbox.Inspector).HostProcesses(ctx)
	if err == nil && len(list) != 1 {
		err = fmt.Errorf("%d processes serve a sandbox", len(list))
	}
	return list, err
}

// grow forks once for all, or in groups that are paused. How long each copy took by itself is not known, but for its first
// program. At the end the first copy of all runs a program again: those that stand still have not been lost.
func (l *linux) grow(ctx context.Context, n int) (took []time.Duration, err error) {
	if l.atOnce == 0 {
		return l.fork(ctx, n)
	}
	for n > 0 {
		group := min(n, l.atOnce)
		first := len(l.copies)
		more, err := l.fork(ctx, group)
		if err != nil {
			return nil, fmt.Errorf("after %d copies: %w", first, err)
		}
		for _, s := range l.copies[first:] {
			if err := s.(sandbox.Pauser).Pause(ctx); err != nil {
				return nil, err
			}
		}
		took, n = append(took, more...), n-group
		fmt.Fprintf(os.Stderr, "%d copies, of the last ones %.0f ms to the first program\n", len(l.copies), quantile(more, 0.5))
	}
	old := l.copies[0]
	if err := old.(sandbox.Pauser).Resume(ctx); err != nil {
		return nil, err
	}
	return took, errors.Join(answers(ctx, old), old.(sandbox.Pauser).Pause(ctx))
}

func (l *linux) fork(ctx context.Context, n int) ([]time.Duration, error) {
	list, err := l.original.(sandbox.Forker).Fork(ctx, n)
	if err != nil {
		return nil, err
	}
	l.copies = append(l.copies, list...)
	var mu sync.Mutex
	next := 0
	return several(ctx, n, func(ctx context.Context) error {
		mu.Lock()
		s := list[next]
		next++
		mu.Unlock()
		return answers(ctx, s)
	})
}

func (l *linux) pids() (pids []int) {
	for _, s := range l.copies {
		if list, err := l.processes(context.Background(), s); err == nil {
			pids = append(pids, list[0].PID)
		}
	}
	return pids
}

func (l *linux) ram() int64 { return l.size }

func (l *linux) shrink() error {
	errs := make([]error, len(l.copies))
	var all sync.WaitGroup
	for i, s := range l.copies {
		all.Go(func() { errs[i] = s.Close() })
	}
	all.Wait()
	l.copies = nil
	return errors.Join(errs...)
}

func (l *linux) Close() error {
	err := l.shrink()
	if l.original != nil {
		err = errors.Join(err, l.original.Close())
	}
	if l.driver != nil {
		err = errors.Join(err, l.driver.Close())
	}
	return err
}
