package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/internal/cellbinary"
	"github.com/aethervm/aether/internal/memfile"
	"github.com/aethervm/aether/internal/microguest"
	"github.com/aethervm/aether/vmm"
)

// Where things are in a micro-guest's memory.
const (
	microCounter = 0x2000000
	microPages   = 0x4000000 // and the 16 MiB from there on
)

// microCode says x for ever, and writes a page that it has not written yet every 64 times.
func microCode() []byte {
	var code []byte
	relative := func(op ...byte) { // an instruction on the counter
		code = append(code, op...)
		code = binary.LittleEndian.AppendUint32(code, uint32(microCounter-(microguest.Entry+len(code)+4)))
	}
	relative(0xff, 0x05)                                        // inc dword [counter]
	relative(0x8b, 0x05)                                        // mov eax, [counter]
	code = append(code, 0xc1, 0xe0, 6)                          // shl eax, 6
	code = append(code, 0x25, 0xff, 0xff, 0xff, 0)              // and eax, 16 MiB - 1
	code = append(code, 0xc6, 0x80, 0, 0, 0, microPages>>24, 1) // mov byte [rax + pages], 1
	code = append(code, microguest.Say("x")...)
	return append(code, 0xeb, byte(int8(-2-len(code)))) // jmp to the beginning
}

// microKernel is an ELF file that the loader takes for a kernel.
func microKernel() (*os.File, error) {
	return memfile.Sealed("micro-guest", func(to *os.File) error {
		_, err := to.Write(microguest.Kernel(microCode()))
		return err
	})
}

// said tells when a guest has said so much. Who waits for it may get the processor late, if the guest has it.
type said struct {
	left int
	at   time.Time // set before done is closed
	done chan struct{}
}

func newSaid(n int) *said { return &said{left: n, done: make(chan struct{})} }

func (s *said) Write(p []byte) (int, error) {
	if before := s.left; before > 0 {
		if s.left -= len(p); s.left <= 0 {
			s.at = time.Now()
			close(s.done)
		}
	}
	return len(p), nil
}

// generation is how much a guest says before it is copied: it has written some new pages then.
const generation = 256

// origin is what copies are made of, to some depth.
type origin struct {
	name   string
	branch *cell.Branch  // for cells
	image  *vmm.Snapshot // for copies in this process
	of     []io.Closer
}

func (o *origin) close() error {
	var errs []error
	for _, c := range o.of {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// micro measures copies of micro-guests.
func micro(ctx context.Context, r *record, n int, sizes, depths []int) (err error) {
	program, err := cellbinary.Open()
	if err != nil {
		return err
	}
	kernel, err := microKernel()
	if err != nil {
		return err
	}
	defer kernel.Close()
	var origins []*origin
	defer func() {
		for _, o := range origins {
			err = errors.Join(err, o.close())
		}
	}()
	for _, size := range sizes {
		for _, depth := range depths {
			o, err := microOrigin(ctx, program, kernel, size, depth)
			if err != nil {
				return fmt.Errorf("%d MiB, depth %d: %w", size, depth, err)
			}
			origins = append(origins, o)
		}
	}
	floors, err := newFloors(r, sizes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floors.close()) }()
	for range n {
		if err := floors.fork(); err != nil {
			return err
		}
		for _, o := range origins {
			if err := errors.Join(o.inProcess(r, false), o.inProcess(r, true), o.inCell(ctx, r, program, false), o.inCell(ctx, r, program, true)); err != nil {
				return err
			}
		}
	}
	return nil
}

// microOrigin makes a guest, a copy of it, a copy of that, and so on.
func microOrigin(ctx context.Context, program, kernel *os.File, size, depth int) (_ *origin, err error) {
	o := &origin{name: fmt.Sprintf("memory=%dMiB depth=%d", size, depth)}
	console := newSaid(generation)
	c, err := cell.Start(ctx, cell.Config{ID: "aether-bench-0", Program: program, Kernel: kernel, VCPUs: 1, MemoryMiB: size, Console: console})
	for i := 1; err == nil; i++ {
		<-console.done
		var b *cell.Branch
		if b, err = c.Branch(ctx); err != nil {
			break
		}
		if err = c.Close(); err != nil || i == depth {
			o.branch = b
			o.of = append(o.of, b)
			break
		}
		console = newSaid(generation)
		c, err = cell.Start(ctx, cell.Config{ID: fmt.Sprintf("aether-bench-%d", i), Program: program, From: b, Console: console})
		err = errors.Join(err, b.Close())
	}
	if err == nil {
		o.image, err = o.branch.Open()
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	o.of = append(o.of, o.image)
	return o, nil
}

// inProcess makes a copy in this process, to the first thing that it says, with a shell that was made ahead or not.
func (o *origin) inProcess(r *record, ahead bool) error {
	cfg, name := vmm.ForkConfig{}, "process "
	if ahead {
		var err error
		if cfg.Shell, err = vmm.NewShell(nil, o.branch.VCPUs()); err != nil {
			return err
		}
		name = "process-shell "
	}
	console := newSaid(1)
	cfg.Console = console
	l := r.start(name + o.name)
	vm, err := vmm.Fork(o.image, cfg)
	if err != nil {
		return err
	}
	l.lap("make")
	if err := vm.Start(); err != nil {
		return errors.Join(err, vm.Close())
	}
	<-console.done
	l.lapAt("first-exit", console.at)
	return vm.Close()
}

// inCell makes a copy in a cell of its own, which was started ahead or not.
func (o *origin) inCell(ctx context.Context, r *record, program *os.File, ahead bool) error {
	cfg := cell.Config{ID: "aether-bench-copy", Program: program, From: o.branch, Console: newSaid(1)}
	console := cfg.Console.(*said)
	start, name := cell.Start, "cell "
	if ahead {
		spare, err := cell.Prepare(ctx, cell.SpareConfig{ID: cfg.ID, Program: program, VCPUs: o.branch.VCPUs(), MemoryMiB: o.branch.MemoryMiB()})
		if err != nil {
			return err
		}
		start, name = spare.Start, "spare-cell "
	}
	l := r.start(name + o.name)
	c, err := start(ctx, cfg)
	if err != nil {
		return err
	}
	l.lap("start")
	<-console.done
	l.lapAt("first-exit", console.at)
	return c.Close()
}
