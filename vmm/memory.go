package vmm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/guestmem"
)

// openKernel checks the kernel file, for a guest with so many MiB of RAM. It reads from it until the kernel is loaded.
func openKernel(f *os.File, ramMiB int) (*boot.Kernel, error) {
	image, err := blob(f)
	if err != nil {
		return nil, err
	}
	kernel, err := boot.Open(image)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKernel, f.Name(), err)
	}
	kernel.Fit(uint64(ramMiB) << 20)
	return kernel, nil
}

// newMemory makes the RAM of a guest that boots: zeros in huge pages, where this host has them, since a boot
// touches most of what it gets, and each first touch of a page is an exit. A kernel in a sealed file is mapped,
// so that all guests share the pages that none of them writes; mapped says so.
func newMemory(cfg *Config, kernel *boot.Kernel) (_ *guestmem.Memory, mapped bool, err error) {
	var layers []*guestmem.Layer
	var extents []guestmem.Extent
	size := uint64(cfg.MemoryMiB) << 20
	// A kernel for which there is no room is told so when it is loaded.
	if guestmem.IsSealed(cfg.Kernel) && kernel.Span().End() <= size {
		if layers, extents, err = kernelLayer(cfg.Kernel, kernel.Pages()); err != nil {
			return nil, false, err
		}
	}
	image, err := guestmem.NewImage(size, layers, extents)
	if err != nil {
		return nil, false, err
	}
	memory, err := image.Fork(guestmem.Options{HugePages: true})
	return memory, len(extents) > 0, errors.Join(err, image.Close())
}

// kernelLayer makes a layer of a sealed kernel file.
func kernelLayer(kernel *os.File, pages []boot.Run) ([]*guestmem.Layer, []guestmem.Extent, error) {
	if len(pages) == 0 {
		return nil, nil, nil
	}
	fd, err := unix.FcntlInt(kernel.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("duplicate the descriptor of %s: %w", kernel.Name(), err)
	}
	layer, err := guestmem.OpenLayer(os.NewFile(uintptr(fd), kernel.Name()))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrKernel, err)
	}
	var extents []guestmem.Extent
	for _, p := range pages {
		// Below the hole an address is also the place in RAM.
		extents = append(extents, guestmem.Extent{RAM: p.GPA, Size: p.Size, Layer: layer, Offset: p.Offset})
	}
	return []*guestmem.Layer{layer}, extents, nil
}
