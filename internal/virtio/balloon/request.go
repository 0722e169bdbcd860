package balloon

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio/queue"
)

// maxFrames bounds the pages of one request. Linux sends 256 at most.
const maxFrames = 4096

// What can be wrong with a request.
const (
	errFrames = queue.Malformed("balloon request of invalid length")
	errFrame  = queue.Malformed("balloon page outside of guest memory")
)

// inflate takes pages that the guest gives up, an array of page frame numbers.
func (d *Device) inflate(c *queue.Chain) (uint32, error) {
	n := c.Readable.Len()
	if n == 0 || n%4 != 0 || n > 4*maxFrames {
		return 0, fmt.Errorf("%w: %d bytes", errFrames, n)
	}
	b := make([]byte, n)
	if err := c.Readable.Read(b); err != nil {
		return 0, err
	}
	d.frames = d.frames[:0]
	for ; len(b) > 0; b = b[4:] {
		frame := binary.LittleEndian.Uint32(b)
		if _, err := d.link.Memory.Slice(address(frame), guestmem.PageSize); err != nil {
			return 0, fmt.Errorf("%w: %w", errFrame, err)
		}
		d.frames = append(d.frames, frame)
	}
	// Neighbours go together: a call to the kernel for each run, not for each page.
	slices.Sort(d.frames)
	return 0, d.discardRuns(slices.Compact(d.frames))
}

func address(frame uint32) uint64 { return uint64(frame) * guestmem.PageSize }

// discardRuns discards pages given in ascending order, each in RAM.
func (d *Device) discardRuns(frames []uint32) error {
	for len(frames) > 0 {
		n := 1
		for n < len(frames) && frames[n] == frames[0]+uint32(n) {
			n++
		}
		r := guestmem.Range{GPA: address(frames[0]), Size: uint64(n) * guestmem.PageSize}
		if err := d.discard(r); err != nil {
			return fmt.Errorf("discard %d pages of the balloon at %#x: %w", n, r.GPA, err)
		}
		frames = frames[n:]
	}
	return nil
}

// report takes free memory, which the guest hands over as the buffers of a chain for as long as the
// chain is not given back. What is not a whole page is left alone.
func (d *Device) report(c *queue.Chain) (uint32, error) {
	for _, s := range c.Writable.Segments() {
		start := (s.Addr + guestmem.PageSize - 1) &^ (guestmem.PageSize - 1)
		end := (s.Addr + uint64(s.Len)) &^ (guestmem.PageSize - 1)
		if start >= end {
			continue
		}
		if err := d.discard(guestmem.Range{GPA: start, Size: end - start}); err != nil {
			return 0, fmt.Errorf("discard %d bytes of free memory at %#x: %w", end-start, start, err)
		}
	}
	return 0, nil
}
