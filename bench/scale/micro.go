package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/internal/cellbinary"
)

// microKernel is a file that the loader takes for a kernel: it says "up", and then a byte again and again.
func microKernel() (*os.File, error) {
	const entry, headers = 0x1000000, 64 + 56
	say := func(c byte) []byte {
		return []byte{0x66, 0xba, boot.SerialPort & 0xff, boot.SerialPort >> 8, 0xb0, c, 0xee} // mov dx, port; mov al, c; out dx, al
	}
	on := append(say('.'), 0xb9, 0, 1, 0, 0, 0xf3, 0x90, 0xff, 0xc9, 0x75, 0xfa) // mov ecx, 256; pause; dec ecx; jnz pause
	code := bytes.Join([][]byte{say('u'), say('p'), on, {0xeb, byte(-len(on) - 2)}}, nil)
	var file bytes.Buffer
	for _, v := range []any{
		elf.Header64{
			Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
			Entry: entry, Phoff: 64, Phentsize: 56, Phnum: 1,
		},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Off: headers, Vaddr: entry, Paddr: entry,
			Filesz: uint64(len(code)), Memsz: uint64(len(code)), Align: 4},
		code,
	} {
		if err := binary.Write(&file, binary.LittleEndian, v); err != nil {
			return nil, err
		}
	}
	return temporary(file.Bytes())
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

	mu     sync.Mutex
	copies []*cell.Cell
}

func (b *bench) newMicro(ctx context.Context) (_ herd, err error) {
	m := &micro{}
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
		c, err := cell.Start(ctx, cell.Config{ID: m.id(), Program: m.program, From: m.branch, Console: first})
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
