// Command floor measures what a fork of a virtual machine costs when nothing is done but the calls to
// KVM without which there is none: create a VM, map a memory file privately, restore one vCPU, run it
// to its first exit. What AetherVM does beside that is measured against it, in the same run.
//
// The guest is a few bytes of real-mode code, which every kind of KVM runs. It prints one line of Go
// benchmark text for each fork and each phase.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/kvm"
)

func main() {
	n := flag.Int("n", 100, "number of forks")
	memory := flag.Int("memory", 256, "memory of the guest in MiB")
	flag.Parse()
	if *n < 1 || *memory < 1 || *memory > 3<<10 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: floor [-n FORKS] [-memory MIB]")
		os.Exit(2)
	}
	if err := measure(*n, *memory); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

const (
	code    = 0x8000
	port    = 0x3f8
	tssAddr = 0xfffbd000 // outside the guest's memory
	pins    = 24
)

// guest says x and begins again.
var guest = []byte{0xba, port & 0xff, port >> 8, 0xb0, 'x', 0xee, 0xeb, 0xf8} // mov dx, port; mov al, 'x'; out dx, al; jmp

// template is what forks are made from.
type template struct {
	system *kvm.System
	file   int
	size   int
	cpuid  []kvm.CPUIDEntry
	state  *kvm.VCPUState
}

func measure(n, memoryMiB int) error {
	runtime.LockOSThread() // as a vCPU's thread is
	t, err := newTemplate(memoryMiB << 20)
	if err != nil {
		return err
	}
	var total []time.Duration
	for range n {
		phases, err := t.fork()
		if err != nil {
			return err
		}
		var sum time.Duration
		for _, p := range phases {
			fmt.Printf("BenchmarkFloor/phase=%s/memory=%dMiB 1 %d ns/op\n", p.name, memoryMiB, p.took.Nanoseconds())
			if p.name != "close" {
				sum += p.took
			}
		}
		total = append(total, sum)
		fmt.Printf("BenchmarkFloor/phase=all/memory=%dMiB 1 %d ns/op\n", memoryMiB, sum.Nanoseconds())
	}
	slices.Sort(total)
	fmt.Fprintf(os.Stderr, "floor: %d forks of %d MiB, create to first exit: p50 %v, p99 %v\n",
		n, memoryMiB, total[(n-1)/2], total[(n*99+99)/100-1])
	return nil
}

// newTemplate boots the guest to its first exit and keeps what it is then.
func newTemplate(size int) (*template, error) {
	t := &template{size: size}
	var err error
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

// create makes a VM with memory, interrupt controllers and a vCPU, in the order that costs least.
func (t *template) create() (vm *kvm.VM, vcpu *kvm.VCPU, mem []byte, err error) {
	if vm, err = t.system.CreateVM(); err != nil {
		return nil, nil, nil, err
	}
	mem, err = unix.Mmap(t.file, 0, t.size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("map %d bytes: %w", t.size, err)
	}
	if err = errors.Join(vm.SetMemory(0, 0, mem), vm.SetTSSAddr(tssAddr), vm.EnableSplitIRQChip(pins)); err != nil {
		return nil, nil, nil, err
	}
	if vcpu, err = vm.CreateVCPU(0); err != nil {
		return nil, nil, nil, err
	}
	return vm, vcpu, mem, vcpu.SetCPUID(t.cpuid)
}

type phase struct {
	name string
	took time.Duration
}

// fork makes one fork, runs it to its first exit and frees it.
func (t *template) fork() ([]phase, error) {
	var phases []phase
	last := time.Now()
	done := func(name string) {
		now := time.Now()
		phases = append(phases, phase{name, now.Sub(last)})
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
	done("close")
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
