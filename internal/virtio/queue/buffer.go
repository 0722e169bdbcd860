package queue

import (
	"fmt"

	"github.com/aethervm/aether/internal/guestmem"
)

// Buffer is a sequence of segments of guest memory, consumed from the front.
type Buffer struct {
	mem      *guestmem.Memory
	segments []Segment
	len      uint64
}

// Len is the number of bytes that are left.
func (b *Buffer) Len() uint64 { return b.len }

// Segments returns the segments that are left. They are the chain's own: valid as long as it is, and
// until the buffer is consumed.
func (b *Buffer) Segments() []Segment { return b.segments }

// Read fills p from the front of the buffer, or fails with ErrShort and consumes nothing.
func (b *Buffer) Read(p []byte) error {
	return b.copy(p, b.mem.ReadAt)
}

// Write puts p at the front of the buffer, or fails with ErrShort and writes nothing.
func (b *Buffer) Write(p []byte) error {
	return b.copy(p, b.mem.WriteAt)
}

func (b *Buffer) copy(p []byte, move func([]byte, uint64) error) error {
	if err := b.require(uint64(len(p))); err != nil {
		return err
	}
	for len(p) > 0 {
		s := b.front(uint64(len(p)))
		if err := move(p[:s.Len], s.Addr); err != nil {
			return err
		}
		p = p[s.Len:]
		b.skip(s.Len)
	}
	return nil
}

func (b *Buffer) require(n uint64) error {
	if n > b.len {
		return fmt.Errorf("%w: %d bytes, need %d", ErrShort, b.len, n)
	}
	return nil
}

// front is the first segment, cut to n bytes. There is one: the caller knows that bytes are left.
func (b *Buffer) front(n uint64) Segment {
	s := b.segments[0]
	s.Len = uint32(min(uint64(s.Len), n))
	return s
}

// skip consumes n bytes, no more than the first segment has.
func (b *Buffer) skip(n uint32) {
	s := &b.segments[0]
	s.Addr += uint64(n)
	s.Len -= n
	b.len -= uint64(n)
	if s.Len == 0 {
		b.segments = b.segments[1:]
	}
}

// CutLast takes the last byte off the buffer and returns its address.
func (b *Buffer) CutLast() (addr uint64, err error) {
	if err := b.require(1); err != nil {
		return 0, err
	}
	last := len(b.segments) - 1
	s := &b.segments[last]
	s.Len--
	b.len--
	if s.Len == 0 {
		b.segments = b.segments[:last]
	}
	return s.Addr + uint64(s.Len), nil
}

// Slices appends the next n bytes to dst, in place, no more than limit slices of them, consumes what
// it appends, and returns how many bytes that is. The caller holds the memory (guestmem.Memory.Acquire)
// as long as it uses the slices.
func (b *Buffer) Slices(dst [][]byte, n uint64, limit int) ([][]byte, uint64, error) {
	if err := b.require(n); err != nil {
		return dst, 0, err
	}
	var taken uint64
	for taken < n && limit > 0 {
		s := b.front(n - taken)
		p, err := b.mem.Slice(s.Addr, uint64(s.Len))
		if err != nil {
			return dst, taken, err
		}
		dst = append(dst, p)
		taken += uint64(s.Len)
		limit--
		b.skip(s.Len)
	}
	return dst, taken, nil
}
