package main

import (
	"context"
	"errors"
	"fmt"
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
	copies   []sandbox.Sandbox
}

func (b *bench) newLinux(ctx context.Context) (_ herd, err error) {
	l := &linux{}
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
	if l.driver, err = aethervm.New(); err != nil {
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

// grow forks once for all. How long each of them took by itself is not known, but for its first program.
func (l *linux) grow(ctx context.Context, n int) ([]time.Duration, error) {
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
