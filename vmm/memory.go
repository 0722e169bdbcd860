package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/guestmem"
)

// openKernel checks the kernel file, for a guest with so many MiB of RAM. It reads from it until the kernel is loaded
// and done is called.
func openKernel(f *os.File, ramMiB int) (kernel *boot.Kernel, done func() error, err error) {
	image, done, err := kernelBlob(f)
	if err != nil {
		return nil, nil, err
	}
	if kernel, err = boot.Open(image); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%w: %s: %w", ErrKernel, f.Name(), err), done())
	}
	kernel.Fit(uint64(ramMiB) << 20)
	return kernel, done, nil
}

// kernelBlob maps a kernel in a sealed file, which is cheaper than to read it. Any other file could be cut short
// meanwhile, and end the process.
func kernelBlob(f *os.File) (_ boot.Blob, done func() error, err error) {
	file, err := blob(f)
	if err != nil || !guestmem.IsSealed(f) {
		return file, func() error { return nil }, err
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(file.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	return bytes.NewReader(mapped), func() error { return unix.Munmap(mapped) }, nil
}

// GiveBack gives back pages of RAM that the guest has written and that hold again what they held when it was made or last
// branched, and returns how many bytes that are. The guest, for which it stands still, pays for them once more when it writes to
// them: it is for one that is to be paused for a while.
func (vm *VM) GiveBack() (uint64, error) {
	vm.branching.Lock()
	defer vm.branching.Unlock()
	pages, err := vm.pagemap()
	if err != nil {
		return 0, err
	}
	vm.machine.Pause()
	defer vm.machine.Resume()
	return vm.memory.GiveBack(pages)
}

// newMemory makes the RAM of a guest that boots: zeros in huge pages, where this host has them, since a boot
// touches most of what it gets, and each first touch of a page is an exit. The kernel is copied there: it writes to
// most of its pages while it boots, its code included, and a page that is mapped costs an exit and a fault when it is
// read, and another of both and a copy when it is written.
func newMemory(cfg *Config) (*guestmem.Memory, error) {
	image, err := guestmem.NewImage(uint64(cfg.MemoryMiB)<<20, nil, nil)
	if err != nil {
		return nil, err
	}
	memory, err := image.Fork(guestmem.Options{HugePages: true})
	return memory, errors.Join(err, image.Close())
}
