package guestmem

import (
	"errors"
	"fmt"
)

// PageSize is the unit in which guest memory is sized and mapped, in bytes.
const PageSize = 4096

// RAM of an x86 machine leaves out the top of the 32-bit address space, where the devices' registers
// and the interrupt controllers are: it goes up to HoleStart and continues at HoleEnd.
const (
	HoleStart uint64 = 3 << 30
	HoleEnd   uint64 = 4 << 30
)

// MaxSize is the largest RAM, in bytes: what fits, with the hole, into the 40 bits of physical
// address that every x86-64 processor with virtualisation has.
const MaxSize = 1<<40 - (HoleEnd - HoleStart)

// ErrSize is wrapped by errors about sizes and places that are not whole pages or out of range.
var ErrSize = errors.New("guestmem: invalid size")

// Range is a contiguous piece of guest-physical address space.
type Range struct {
	// GPA is the guest-physical address of the first byte.
	GPA uint64
	// Size is in bytes.
	Size uint64
}

// End is the address after the last byte.
func (r Range) End() uint64 { return r.GPA + r.Size }

// Layout returns where RAM of the given size lies: one range, or two if it reaches into the hole, in
// ascending order. Byte n of the memory file is byte n of the ranges, one after the other.
func Layout(size uint64) ([]Range, error) {
	if size == 0 || size%PageSize != 0 || size > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes of RAM: not a multiple of %d up to %d", ErrSize, size, PageSize, MaxSize)
	}
	low := Range{GPA: 0, Size: min(size, HoleStart)}
	if size == low.Size {
		return []Range{low}, nil
	}
	return []Range{low, {GPA: HoleEnd, Size: size - low.Size}}, nil
}
