package guestmem

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Discard gives the memory of a range back to the host: whole pages, within one region. What they hold
// is lost. Memory of New then reads as zero; that of a fork as in the layers from which it was made,
// which is what this guest, or one that shares its past, had there. It may be called while the guest
// runs; what the guest writes at the same time may be lost or not.
func (m *Memory) Discard(r Range) error {
	if r.Size == 0 || (r.GPA|r.Size)%PageSize != 0 {
		return fmt.Errorf("discard guest memory: %w: %d bytes at %#x are not whole pages", ErrSize, r.Size, r.GPA)
	}
	if err := m.Acquire(); err != nil {
		return fmt.Errorf("discard guest memory: %w", err)
	}
	defer m.Release()
	mem, err := m.find(r.GPA, r.Size)
	if err != nil {
		return fmt.Errorf("discard guest memory: %w", err)
	}
	advice := unix.MADV_DONTNEED
	if m.file != nil {
		// The pages are the file's: to unmap them would free nothing. This makes a hole.
		advice = unix.MADV_REMOVE
	}
	if err := unix.Madvise(mem, advice); err != nil {
		return fmt.Errorf("discard %d bytes of guest memory at %#x: %w", r.Size, r.GPA, err)
	}
	return nil
}
