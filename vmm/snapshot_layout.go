package vmm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/aethervm/aether/internal/codec"
	"github.com/aethervm/aether/internal/guestmem"
)

// extentRecord is the encoding of a guestmem.Extent, prefetchRecord of a guestmem.Touched.
type (
	extentRecord struct {
		RAM, Size, Offset uint64
		Layer             uint32
	}
	prefetchRecord struct {
		RAM, Size uint64
		Write     bool
	}
)

// layout is the first part of an encoded state: where the memory is. It is what an owner reads of it, who believes none of
// the rest.
type layout struct {
	size     uint64 // of RAM, bytes
	extents  []extentRecord
	prefetch []guestmem.Touched
}

func (l layout) append(b []byte) []byte {
	b = codec.Append(b, [2]uint32{stateMagic, StateVersion})
	b = codec.Append(b, l.size)
	b = codec.AppendCount(b, len(l.extents))
	for _, e := range l.extents {
		b = codec.Append(b, e)
	}
	b = codec.AppendCount(b, len(l.prefetch))
	for _, t := range l.prefetch {
		b = codec.Append(b, prefetchRecord{t.RAM, t.Size, t.Written})
	}
	return b
}

// decodeLayout reads what append has written, and no more. Extents are not judged.
func decodeLayout(d *codec.Decoder) (l layout, err error) {
	var head [2]uint32
	d.Value(&head)
	switch {
	case d.Err() != nil || head[0] != stateMagic:
		return l, errors.New("it is no state of a VM")
	case head[1] != StateVersion:
		return l, fmt.Errorf("it is of version %d, this program reads version %d", head[1], StateVersion)
	}
	d.Value(&l.size)
	// By hand: reflection takes some microseconds for each, as long as mapping it.
	var r [28]byte
	n := d.Count(guestmem.MaxExtents)
	l.extents = make([]extentRecord, 0, n)
	for range n {
		d.Fill(r[:])
		l.extents = append(l.extents, extentRecord{
			RAM: binary.LittleEndian.Uint64(r[:]), Size: binary.LittleEndian.Uint64(r[8:]), Offset: binary.LittleEndian.Uint64(r[16:]),
			Layer: binary.LittleEndian.Uint32(r[24:]),
		})
	}
	for range d.Count(maxPrefetch) {
		var t guestmem.Touched
		d.Value(&t.RAM)
		d.Value(&t.Size)
		t.Written = d.Bool()
		if d.Err() != nil {
			break
		}
		l.prefetch = append(l.prefetch, t)
	}
	return l, d.Err()
}

// check holds a layout to RAM of so many bytes: extents in ascending order, without overlaps, in whole pages and within it.
func (l layout) check(memory uint64) error {
	if l.size != memory {
		return fmt.Errorf("%d bytes of RAM, not %d", l.size, memory)
	}
	at := uint64(0)
	for _, e := range l.extents {
		if e.Size == 0 || (e.RAM|e.Size|e.Offset)%guestmem.PageSize != 0 || e.RAM < at || e.RAM > memory || e.Size > memory-e.RAM ||
			e.Offset > 2*guestmem.MaxSize {
			return fmt.Errorf("%d bytes of RAM at %#x from offset %#x of a layer", e.Size, e.RAM, e.Offset)
		}
		at = e.RAM + e.Size
	}
	return nil
}
