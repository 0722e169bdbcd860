package queue

import (
	"encoding/binary"
	"errors"
	"testing"
)

// FuzzChain lets fuzz bytes be the rings, the tables and the buffers, and a second half of them appear
// in memory while the device works. Whatever they are, the device ends after bounded work, with a
// Malformed error or none, and touches nothing but the used ring and the writable buffers.
func FuzzChain(f *testing.F) {
	g := newGuest(f)
	seed := func(descs ...descriptor) []byte {
		b := make([]byte, 0x200)
		for i, d := range descs {
			binary.LittleEndian.PutUint64(b[16*i:], d.addr)
			binary.LittleEndian.PutUint32(b[16*i+8:], d.len)
			binary.LittleEndian.PutUint16(b[16*i+12:], d.flags)
			binary.LittleEndian.PutUint16(b[16*i+14:], d.next)
		}
		binary.LittleEndian.PutUint16(b[0x102:], uint16(len(descs))) // available index
		for i := range descs {
			binary.LittleEndian.PutUint16(b[0x104+2*i:], uint16(i))
		}
		return b
	}
	f.Add(byte(0), seed(descriptor{dataAt, 8, 0, 0}))
	f.Add(byte(1), seed(descriptor{dataAt, 8, descNext, 1}, descriptor{dataAt, 8, descWrite, 0}))
	f.Add(byte(2), seed(descriptor{0x10, 48, descIndirect, 0}, descriptor{dataAt, 8, descNext, 1}, descriptor{dataAt, 8, descWrite, 0}))
	f.Add(byte(3), seed(descriptor{dataAt, 8, descNext, 0}))
	f.Add(byte(3), seed(descriptor{memSize - 4, 8, descNext, 0}))
	f.Fuzz(func(t *testing.T, mode byte, data []byte) {
		opt := Options{EventIdx: mode&1 != 0, Indirect: mode&2 != 0}
		size := uint16(1) << (mode >> 2 & 3)
		// The areas are close together, so that bytes reach all of them; mode moves the used ring
		// over the others.
		cfg := Config{Size: size, Desc: 0, Avail: 0x100, Used: 0x180}
		if mode&0x80 != 0 {
			cfg.Used = uint64(mode&0x40) * 4
		}
		first, second := data[:len(data)/2], data[len(data)/2:]
		if mode&0x20 != 0 {
			first, second = data, nil
		}
		clean := make([]byte, 0x400)
		if err := g.mem.WriteAt(clean, 0); err != nil {
			t.Fatal(err)
		}
		if err := g.mem.WriteAt(first[:min(len(first), 0x1000)], 0); err != nil {
			t.Fatal(err)
		}
		q, err := New(g.mem, cfg, opt)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			chains := 0
			_, _, err := q.Drain(q.Size(), func(c *Chain) (uint32, error) {
				if chains++; chains > int(size) {
					t.Fatal("more chains than descriptors")
				}
				segments := c.Readable.Segments()
				var sum uint64
				for _, s := range segments {
					sum += uint64(s.Len)
				}
				if sum != c.Readable.Len() || len(segments)+len(c.Writable.Segments()) > int(size)+maxIndirect {
					t.Fatal("the chain does not add up")
				}
				n := min(c.Readable.Len(), 4096)
				if err := c.Readable.Read(make([]byte, n)); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Writable.CutLast(); err != nil && !errors.Is(err, ErrShort) {
					t.Fatal(err)
				}
				n = min(c.Writable.Len(), 4096)
				if err := c.Writable.Write(second[:min(int(n), len(second))]); err != nil {
					t.Fatal(err)
				}
				return uint32(n), g.mem.WriteAt(second[:min(len(second), 0x1000)], 0)
			})
			if err != nil {
				if !errors.Is(err, ErrMalformed) {
					t.Fatalf("untyped error: %v", err)
				}
				return
			}
		}
	})
}
