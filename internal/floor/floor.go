// Package floor is a fork of a virtual machine when nothing is done but the calls to KVM without which there is none:
// create a VM, map a memory file privately, restore one vCPU, run it to its first exit. What AetherVM does beside
// that is measured against it, in the same run.
//
// The guest is a few bytes of real-mode code, which every kind of KVM runs.
package floor

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/kvm"
)

const (
	code    = 0x8000
	port    = 0x3f8
	tssAddr = 0xfffbd000 // outside the guest's memory
	pins    = 24
	// Memory that does not fit below the hole goes on above it.
	hole, aboveHole = 3 << 30, 4 << 30
)

// guest says x and begins again.
var guest = []byte{0xba, port & 0xff, port >> 8, 0xb0, 'x', 0xee, 0xeb, 0xf8} // mov dx, port; mov al, 'x'; out dx, al; jmp

// Template is what forks are made from. Its methods are for one goroutine that keeps its thread
// (runtime.LockOSThread), as a vCPU's is.
type Template struct {
	system *kvm.System
	file   int
	size   int
	cpuid  []kvm.CPUIDEntry
	state  *kvm.VCPUState
}

// New boots a guest with so many bytes of memory, whole pages, to its first exit, and keeps what it is then.
func New(size int) (_ *Template, err error) {
	t := &Template{size: size, file: -1}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if t.system, err = kvm.Open(); err != nil {
		return nil, err
	}
	if t.cpuid, err = t.system.SupportedCPUID(); err != nil {
		return nil, err
	}
	msrs, err := t.system.MSRIndices()
	if err != nil {
		return nil, err
	}
	if t.file, err = unix.MemfdCreate("floor", unix.MFD_CLOEXEC); err != nil {
		return nil, err
	}
	if err := unix.Ftruncate(t.file, int64(size)); err != nil {
		return nil, err
	}
	if _, err := unix.Pwrite(t.file, guest, code); err != nil {
		return nil, err
	}
	vm, vcpu, mem, err := t.create()
	if err != nil {
		return nil, err
	}
	sregs, err := vcpu.Sregs()
	if err != nil {
		return nil, err
	}
	sregs.CS.Base, sregs.CS.Selector = 0, 0
	if err := errors.Join(vcpu.SetSregs(sregs), vcpu.SetRegs(kvm.Regs{RIP: code, RFLAGS: 2})); err != nil {
		return nil, err
	}
	if err := run(vcpu); err != nil {
		return nil, err
	}
	// The state is whole once the exit has been completed.
	vcpu.Kick()
	if _, err := vcpu.Run(); !errors.Is(err, kvm.ErrKicked) {
		return nil, fmt.Errorf("complete the first exit: %w", err)
	}
	if t.state, err = vcpu.State(msrs); err != nil {
		return nil, err
	}
	return t, errors.Join(vcpu.Close(), vm.Close(), unix.Munmap(mem))
}

// Close frees what forks are made from.
func (t *Template) Close() error {
	var errs []error
	if t.system != nil {
		errs = append(errs, t.system.Close())
	}
	if t.file >= 0 {
		errs = append(errs, unix.Close(t.file))
	}
	return errors.Join(errs...)
}

// create makes a VM with memory, interrupt controllers and a vCPU, in the order that costs least.
func (t *Template) create() (vm *kvm.VM, vcpu *kvm.VCPU, mem []byte, err error) {
	if vm, err = t.system.CreateVM(); err != nil {
		return nil, nil, nil, err
	}
	mem, err = unix.Mmap(t.file, 0, t.size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("map %d bytes: %w", t.size, err)
	}
	low := min(len(mem), hole)
	err = vm.SetMemory(0, 0, mem[:low])
	if low < len(mem) {
		err = errors.Join(err, vm.SetMemory(1, aboveHole, mem[low:]))
	}
	if err = errors.Join(err, vm.SetTSSAddr(tssAddr), vm.EnableSplitIRQChip(pins)); err != nil {
		return nil, nil, nil, err
	}
	if vcpu, err = vm.CreateVCPU(0); err != nil {
		return nil, nil, nil, err
	}
	return vm, vcpu, mem, vcpu.SetCPUID(t.cpuid)
}

// Phase is a part of a fork.
type Phase struct {
	Name string
	Took time.Duration
}

// CloseName is the phase after the first exit.
const CloseName = "close"

// Fork makes one fork, runs it to its first exit and frees it.
func (t *Template) Fork() ([]Phase, error) {
	var phases []Phase
	last := time.Now()
	done := func(name string) {
		now := time.Now()
		phases = append(phases, Phase{name, now.Sub(last)})
		last = time.Now()
	}
	vm, vcpu, mem, err := t.create()
	if err != nil {
		return nil, err
	}
	done("create")
	if err := vcpu.SetState(t.state); err != nil {
		return nil, err
	}
	done("restore")
	if err := run(vcpu); err != nil {
		return nil, err
	}
	done("run")
	err = errors.Join(vcpu.Close(), vm.Close(), unix.Munmap(mem))
	done(CloseName)
	return phases, err
}

// run runs the guest until it has said x.
func run(vcpu *kvm.VCPU) error {
	exit, err := vcpu.Run()
	if err != nil {
		return err
	}
	if exit.Reason != kvm.ExitIO || exit.IO.Port != port {
		return fmt.Errorf("the guest stopped: %v", exit)
	}
	return nil
}
