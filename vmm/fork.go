package vmm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guestmem"
)

// ForkConfig is what a VM has that is made of a snapshot, beside what it has from there. Files are as in
// Config.
type ForkConfig struct {
	// Disks are the same as those of the VM that the snapshot is of, in the same order.
	Disks []*os.File
	// Network is there if the snapshot's guest has a network card, and nil if not. Its Interface is for
	// telling the guest ([VM.Interface]), which goes on with the addresses that it had until it is told.
	Network *Network
	// Console and DeviceStopped are as in Config.
	Console       io.Writer
	DeviceStopped func(error)
	// KVM and Shell are as in Config.
	KVM   *os.File
	Shell *Shell
	// Pages is as in Config.
	Pages *os.File
}

// Fork makes a VM that goes on from a snapshot. It shares the snapshot's memory for as long as neither writes to
// it, so that the cost does not depend on how much there is. It does not run yet; the snapshot can be closed
// at once.
//
// The guest finds all its connections to the host reset, and can be dialed as soon as it runs. It gets a new
// generation ID, at which a Linux with a vmgenid driver reseeds its random number generator, but a moment later:
// whoever forks guests whose programs must not share random numbers stops these programs before Branch, and
// tells the fork who it is before they go on.
func Fork(s *Snapshot, cfg ForkConfig) (*VM, error) {
	vm, err := fork(s, cfg)
	if err != nil {
		return nil, fmt.Errorf("fork VM: %w", err)
	}
	return vm, nil
}

func fork(s *Snapshot, cfg ForkConfig) (_ *VM, err error) {
	if len(cfg.Disks) != len(s.state.disks) || (cfg.Network != nil) != (s.state.card != nil) {
		return nil, fmt.Errorf("%w: the snapshot has %d disks, network card: %v; given were %d, %v", ErrConfig,
			len(s.state.disks), s.state.card != nil, len(cfg.Disks), cfg.Network != nil)
	}
	full := Config{
		VCPUs: s.state.vcpus, Disks: cfg.Disks, Console: cfg.Console, DeviceStopped: cfg.DeviceStopped, KVM: cfg.KVM, Shell: cfg.Shell,
	}
	vm := &VM{copied: true}
	defer func() {
		if err != nil {
			if vm.machine != nil {
				err = errors.Join(err, vm.machine.Close())
				vm.watch.Wait()
			}
			err = errors.Join(err, vm.free())
		}
	}()
	if cfg.Network != nil {
		if err := cfg.Network.check(); err != nil {
			return nil, err
		}
		same := *cfg.Network
		same.Interface = same.settle()
		same.Interface.MAC = s.state.card.MAC // that of the hardware, which the guest has read once
		full.Network = &same
	}
	image, err := s.hold()
	if err != nil {
		return nil, err
	}
	vm.memory, err = image.Fork(guestmem.Options{})
	s.release()
	if err != nil {
		return nil, err
	}
	vm.prefetch = s.prefetch
	if len(s.prefetch) > 0 {
		go vm.memory.Prefetch(s.prefetch) // beside all that follows; the end of the memory ends it
	}
	if vm.parts, err = vm.devices(&full); err != nil {
		return nil, err
	}
	if cfg.Network != nil {
		vm.card = cfg.Network.settle()
	}
	if err := vm.restoreDevices(&s.state); err != nil {
		return nil, err
	}
	if err := vm.assemble(&full, vm.parts); err != nil {
		return nil, err
	}
	if err := vm.machine.Restore(s.machine); err != nil {
		return nil, unfit(err)
	}
	vm.keepPages(cfg.Pages)
	return vm, nil
}

// unfit makes an error about the snapshot of one of what was restored from it, unless it says that the host has run out of
// something: the snapshot is as good as before then.
func unfit(err error) error {
	for _, scarce := range []error{unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.ENOSPC, unix.EAGAIN, unix.ENOBUFS} {
		if errors.Is(err, scarce) {
			return fmt.Errorf("the host has run out of something: %w", err)
		}
	}
	return fmt.Errorf("%w: %w", ErrSnapshot, err)
}

// keepPages takes over the page map that Branch is to use.
func (vm *VM) keepPages(f *os.File) {
	if f != nil {
		vm.pages = guestmem.NewPagemap(f)
	}
}

// pagemap returns the page map that Branch uses, and opens one if it was given none. The caller holds vm.branching.
func (vm *VM) pagemap() (_ *guestmem.Pagemap, err error) {
	if vm.pages == nil {
		vm.pages, err = guestmem.OpenPagemap()
	}
	return vm.pages, err
}

// resumeCopy lets a VM of a snapshot go on, as another one.
func (vm *VM) resumeCopy() error {
	vm.branching.Lock()
	defer vm.branching.Unlock()
	if !vm.copied {
		return errors.New("start VM: it was started before")
	}
	vm.copied = false
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	if err := vm.machine.SetGenerationID(id); err != nil {
		return err
	}
	vm.machine.Resume()
	return nil
}
