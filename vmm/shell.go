package vmm

import (
	"errors"
	"fmt"
	"os"

	"github.com/aethervm/aether/internal/machine"
)

// Shell is the part of a VM that is the same for all of as many processors: what the kernel has of it before there is
// memory. To make it ahead spares New and Fork half of their time, or more where the processor is emulated.
type Shell struct {
	machine *machine.Shell
	msrs    []uint32
}

// NewShell makes a shell of a VM with 1 to MaxVCPUs processors. device is the KVM device, open for reading and writing,
// which is not kept; nil has it opened.
func NewShell(device *os.File, vcpus int) (*Shell, error) {
	s, err := newShell(device, vcpus)
	if err != nil {
		return nil, fmt.Errorf("make the shell of a VM: %w", err)
	}
	return s, nil
}

func newShell(device *os.File, vcpus int) (_ *Shell, err error) {
	if vcpus < 1 || vcpus > MaxVCPUs {
		return nil, fmt.Errorf("%w: %d vCPUs; 1 to %d are possible", ErrConfig, vcpus, MaxVCPUs)
	}
	system, err := openKVM(device)
	if err != nil {
		return nil, err
	}
	s := &Shell{}
	if s.msrs, err = system.MSRIndices(); err == nil {
		s.machine, err = machine.NewShell(system, vcpus)
	}
	if err = errors.Join(err, system.Close()); err != nil && s.machine != nil {
		err = errors.Join(err, s.machine.Close())
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close frees a shell that was not used. It is idempotent.
func (s *Shell) Close() error { return s.machine.Close() }
