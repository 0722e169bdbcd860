package main

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/aethervm/aether/vmm"
)

// process is a herd of which each copy is in this process, and not in a cell. The guest is that of micro.
type process struct {
	original *vmm.VM
	image    *vmm.Snapshot
	size     int64

	mu     sync.Mutex
	copies []*vmm.VM
}

func (b *bench) newProcess(ctx context.Context) (herd, error) { return b.process(ctx) }

func (b *bench) process(ctx context.Context) (_ *process, err error) {
	p := &process{size: int64(b.memoryMiB) << 20}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	kernel, err := microKernel()
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	up := newSpoken()
	if p.original, err = vmm.New(vmm.Config{Kernel: kernel, VCPUs: 1, MemoryMiB: b.memoryMiB, Console: up}); err != nil {
		return nil, err
	}
	if err := errors.Join(p.original.Start(), up.answered(ctx)); err != nil {
		return nil, err
	}
	if p.image, err = p.original.Branch(); err != nil {
		return nil, err
	}
	p.original.Pause()
	return p, nil
}

// fork makes one copy, which is paused when it has said something, and returns how long it took until then.
func (p *process) fork(ctx context.Context) (time.Duration, *vmm.VM, error) {
	begin := time.Now()
	first := newSpoken()
	vm, err := vmm.Fork(p.image, vmm.ForkConfig{Console: first})
	if err != nil {
		return 0, nil, err
	}
	if err := errors.Join(vm.Start(), first.answered(ctx)); err != nil {
		return 0, nil, errors.Join(err, vm.Close())
	}
	took := time.Since(begin)
	vm.Pause()
	return took, vm, nil
}

func (p *process) grow(ctx context.Context, n int) ([]time.Duration, error) {
	return several(ctx, n, func(ctx context.Context) error {
		_, vm, err := p.fork(ctx)
		if err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.copies = append(p.copies, vm)
		return nil
	})
}

func (p *process) pids() []int { return []int{os.Getpid()} }

func (p *process) ram() int64 { return p.size }

func (p *process) shrink() (err error) {
	for _, vm := range p.copies {
		err = errors.Join(err, vm.Close())
	}
	p.copies = nil
	return err
}

func (p *process) Close() error {
	err := p.shrink()
	if p.image != nil {
		err = errors.Join(err, p.image.Close())
	}
	if p.original != nil {
		err = errors.Join(err, p.original.Close())
	}
	return err
}
