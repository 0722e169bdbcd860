package machine

import (
	"errors"
	"fmt"
	"sync"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/kvm"
)

// Shell is what the kernel has of a machine before there is any memory: it is the same for all machines of as many
// processors, and can be made ahead.
type Shell struct {
	mu    sync.Mutex
	vm    *kvm.VM // nil once it is a machine's, or closed
	vcpus []*kvm.VCPU
}

// NewShell makes a shell with 1 to boot.MaxVCPUs processors.
func NewShell(system *kvm.System, vcpus int) (*Shell, error) {
	if err := checkVCPUs(vcpus); err != nil {
		return nil, err
	}
	s := &Shell{}
	var err error
	if s.vm, err = system.CreateVM(); err == nil {
		s.vcpus, err = equip(system, s.vm, vcpus)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a shell of a machine: %w", err), s.Close())
	}
	return s, nil
}

// take returns what is in the shell, which is empty from then on.
func (s *Shell) take(vcpus int) (*kvm.VM, []*kvm.VCPU, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.vm == nil || len(s.vcpus) != vcpus {
		return nil, nil, fmt.Errorf("%w: a shell with %d processors for a machine with %d", boot.ErrConfig, len(s.vcpus), vcpus)
	}
	vm, all := s.vm, s.vcpus
	s.vm, s.vcpus = nil, nil
	return vm, all, nil
}

// Close frees a shell that no machine has been made of. It is idempotent.
func (s *Shell) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, vcpu := range s.vcpus {
		errs = append(errs, vcpu.Close())
	}
	if s.vm != nil {
		errs = append(errs, s.vm.Close())
	}
	s.vm, s.vcpus = nil, nil
	return errors.Join(errs...)
}

// equip gives a VM interrupt controllers and processors. What was made is returned also with an error.
func equip(system *kvm.System, vm *kvm.VM, n int) (vcpus []*kvm.VCPU, err error) {
	if err := vm.SetTSSAddr(tssAddr); err != nil {
		return nil, err
	}
	if err := vm.EnableSplitIRQChip(boot.IOAPICPins); err != nil {
		return nil, err
	}
	supported, err := hostCPUID(system)
	if err != nil {
		return nil, err
	}
	for id := range n {
		vcpu, err := vm.CreateVCPU(id)
		if err != nil {
			return vcpus, err
		}
		vcpus = append(vcpus, vcpu)
		if err := vcpu.SetCPUID(guestCPUID(supported, id, n)); err != nil {
			return vcpus, err
		}
		if err := setInitialMSRs(vcpu); err != nil {
			return vcpus, err
		}
	}
	return vcpus, nil
}

// known is what KVM supports here, which does not change: where CPUID is emulated, as in most virtual machines, the kernel
// takes as long to tell as it takes to make a VM.
var known struct {
	mu    sync.Mutex
	cpuid []kvm.CPUIDEntry
}

// hostCPUID is what KVM supports of CPUID. It is not to be changed.
func hostCPUID(system *kvm.System) ([]kvm.CPUIDEntry, error) {
	known.mu.Lock()
	defer known.mu.Unlock()
	if known.cpuid == nil {
		list, err := system.SupportedCPUID()
		if err != nil {
			return nil, err
		}
		known.cpuid = list
	}
	return known.cpuid, nil
}

func checkVCPUs(n int) error {
	if n < 1 || n > boot.MaxVCPUs {
		return fmt.Errorf("%w: %d vCPUs; 1 to %d are possible", boot.ErrConfig, n, boot.MaxVCPUs)
	}
	return nil
}
