package queue

import (
	"encoding/binary"
	"fmt"

	"github.com/aethervm/aether/internal/guestmem"
)

// Chain is one request of the driver: buffers to read, then buffers to write.
type Chain struct {
	// Readable and Writable are consumed from the front by what uses them.
	Readable, Writable Buffer

	head     uint16
	segments []Segment // both buffers' storage
}

// Segment is a contiguous piece of guest memory, checked to be in one region.
type Segment struct {
	Addr uint64
	Len  uint32
}

// Head identifies the chain to Push.
func (c *Chain) Head() uint16 { return c.head }

type descriptor struct {
	addr        uint64
	len         uint32
	flags, next uint16
}

func fetchDescriptor(mem *guestmem.Memory, table uint64, i uint16) (descriptor, error) {
	var b [descSize]byte
	if err := mem.ReadAt(b[:], table+descSize*uint64(i)); err != nil {
		return descriptor{}, err
	}
	return descriptor{
		addr:  binary.LittleEndian.Uint64(b[0:]),
		len:   binary.LittleEndian.Uint32(b[8:]),
		flags: binary.LittleEndian.Uint16(b[12:]),
		next:  binary.LittleEndian.Uint16(b[14:]),
	}, nil
}

// fetch reads the chain that starts at head. Every descriptor is read once.
func (c *Chain) fetch(q *Queue, head uint16) error {
	c.head = head
	c.segments = c.segments[:0]
	var (
		table, size = q.cfg.Desc, q.cfg.Size
		indirect    bool
		i           = head
		left        = size // how many descriptors a chain without loops can still have
		readable    int    // number of segments
		read, total uint64 // bytes
	)
	for {
		if i >= size {
			return fmt.Errorf("%w: %d of %d", ErrDescIndex, i, size)
		}
		if left == 0 {
			return fmt.Errorf("%w: head %d", ErrLoop, head)
		}
		left--
		d, err := fetchDescriptor(q.mem, table, i)
		if err != nil {
			return err // both kinds of table are known to be in memory; it may be closed
		}
		if d.flags&descIndirect != 0 {
			if indirect || !q.opt.Indirect {
				return fmt.Errorf("%w: nested %t, negotiated %t", ErrIndirect, indirect, q.opt.Indirect)
			}
			if d.flags&descNext != 0 || d.len == 0 || d.len%descSize != 0 || d.len > maxIndirect*descSize {
				return fmt.Errorf("%w: flags %#x, %d bytes", ErrIndirect, d.flags, d.len)
			}
			if err := contains(q.mem, d.addr, uint64(d.len)); err != nil {
				return fmt.Errorf("%w: %w", ErrIndirect, err)
			}
			indirect, table, size, i = true, d.addr, uint16(d.len/descSize), 0
			left = size
			continue
		}
		if d.len == 0 {
			return fmt.Errorf("%w: no bytes at %#x", ErrBuffer, d.addr)
		}
		if err := contains(q.mem, d.addr, uint64(d.len)); err != nil {
			return fmt.Errorf("%w: %w", ErrBuffer, err)
		}
		if total += uint64(d.len); total > maxBytes {
			return fmt.Errorf("%w: %d bytes", ErrTooLong, total)
		}
		if d.flags&descWrite == 0 {
			if len(c.segments) > readable {
				return fmt.Errorf("%w: head %d", ErrOrder, head)
			}
			readable++
			read = total
		}
		c.segments = append(c.segments, Segment{Addr: d.addr, Len: d.len})
		if d.flags&descNext == 0 {
			break
		}
		i = d.next
	}
	c.Readable = Buffer{mem: q.mem, segments: c.segments[:readable], len: read}
	c.Writable = Buffer{mem: q.mem, segments: c.segments[readable:], len: total - read}
	return nil
}
