package queue

import (
	"errors"
	"testing"

	"github.com/aethervm/aether/internal/guestmem"
)

func TestChain(t *testing.T) {
	for _, name := range []string{"direct", "indirect", "direct then indirect"} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			q := g.queue(8, Options{Indirect: true})
			table, at, next := uint64(descAt), 5, []uint16{2, 7, 0}
			switch name {
			case "indirect":
				table, at, next = 0x8000, 0, []uint16{1, 2, 3}
				g.desc(descAt, 5, descriptor{0x8000, 4 * 16, descIndirect | descWrite, 0})
				g.offer(q, 0, 5)
			case "direct then indirect":
				g.desc(descAt, 6, descriptor{dataAt + 0x5000, 1, descNext, 1})
				table, at, next = 0x8000, 0, []uint16{1, 2, 3}
				g.desc(descAt, 1, descriptor{0x8000, 4 * 16, descIndirect, 0})
				g.offer(q, 0, 6)
			default:
				g.offer(q, 0, 5)
			}
			g.desc(table, at, descriptor{dataAt, 3, descNext, next[0]})
			g.desc(table, int(next[0]), descriptor{dataAt + 0x1000, 5, descNext, next[1]})
			g.desc(table, int(next[1]), descriptor{dataAt + 0x2000, 4, descNext | descWrite, next[2]})
			g.desc(table, int(next[2]), descriptor{dataAt + 0x3000, 2, descWrite, 0})
			for i, s := range []string{"abc", "defgh"} {
				if err := g.mem.WriteAt([]byte(s), dataAt+0x1000*uint64(i)); err != nil {
					t.Fatal(err)
				}
			}
			c, err := q.Next()
			if err != nil || c == nil {
				t.Fatalf("Next = %v, %v", c, err)
			}
			if name == "direct then indirect" {
				if err := c.Readable.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			if c.Readable.Len() != 8 || c.Writable.Len() != 6 {
				t.Fatalf("%d readable, %d writable", c.Readable.Len(), c.Writable.Len())
			}
			got := make([]byte, 4)
			if err := c.Readable.Read(got); err != nil || string(got) != "abcd" {
				t.Errorf("read %q, %v", got, err)
			}
			if err := c.Readable.Read(make([]byte, 5)); !errors.Is(err, ErrShort) || c.Readable.Len() != 4 {
				t.Errorf("read beyond the end: %v, %d left", err, c.Readable.Len())
			}
			if err := c.Readable.Read(got); err != nil || string(got) != "efgh" {
				t.Errorf("read %q, %v", got, err)
			}
			status, err := c.Writable.CutLast()
			if err != nil || status != dataAt+0x3001 {
				t.Errorf("last byte at %#x, %v", status, err)
			}
			if err := c.Writable.Write([]byte("VWXYZ")); err != nil {
				t.Error(err)
			}
			if err := c.Writable.Write([]byte("!")); !errors.Is(err, ErrShort) {
				t.Errorf("write beyond the end: %v", err)
			}
			if _, err := c.Writable.CutLast(); !errors.Is(err, ErrShort) {
				t.Errorf("cut beyond the end: %v", err)
			}
			out := make([]byte, 0x1002)
			if err := g.mem.ReadAt(out, dataAt+0x2000); err != nil || string(out[:4]) != "VWXY" || string(out[0x1000:]) != "Z\x00" {
				t.Errorf("wrote %q %q", out[:4], out[0x1000:])
			}
			if c, err := q.Next(); c != nil || err != nil {
				t.Errorf("second chain: %v, %v", c, err)
			}
		})
	}
}

func TestMalformedChains(t *testing.T) {
	for _, tc := range []struct {
		name  string
		setUp func(guest)
		head  uint16
		want  error
	}{
		{"head out of range", func(guest) {}, 8, ErrDescIndex},
		{"next out of range", func(g guest) { g.desc(descAt, 0, descriptor{dataAt, 1, descNext, 8}) }, 0, ErrDescIndex},
		{"points to itself", func(g guest) { g.desc(descAt, 0, descriptor{dataAt, 1, descNext, 0}) }, 0, ErrLoop},
		{"empty buffer", func(g guest) { g.desc(descAt, 0, descriptor{dataAt, 0, 0, 0}) }, 0, ErrBuffer},
		{"buffer outside", func(g guest) { g.desc(descAt, 0, descriptor{memSize - 1, 2, 0, 0}) }, 0, ErrBuffer},
		{"buffer wraps", func(g guest) { g.desc(descAt, 0, descriptor{1<<64 - 1, 2, 0, 0}) }, 0, ErrBuffer},
		{"buffer of 4 GiB", func(g guest) { g.desc(descAt, 0, descriptor{dataAt, 1<<32 - 1, 0, 0}) }, 0, ErrBuffer},
		{"readable after writable", func(g guest) {
			g.desc(descAt, 0, descriptor{dataAt, 1, descNext | descWrite, 1})
			g.desc(descAt, 1, descriptor{dataAt, 1, 0, 0})
		}, 0, ErrOrder},
		{"indirect with next", func(g guest) { g.desc(descAt, 0, descriptor{dataAt, 16, descNext | descIndirect, 1}) }, 0, ErrIndirect},
		{"indirect empty", func(g guest) { g.desc(descAt, 0, descriptor{dataAt, 0, descIndirect, 0}) }, 0, ErrIndirect},
		{"indirect of odd size", func(g guest) { g.desc(descAt, 0, descriptor{dataAt, 24, descIndirect, 0}) }, 0, ErrIndirect},
		{"indirect of 64 Ki entries", func(g guest) { g.desc(descAt, 0, descriptor{0, 1 << 20, descIndirect, 0}) }, 0, ErrIndirect},
		{"indirect outside", func(g guest) { g.desc(descAt, 0, descriptor{memSize - 16, 32, descIndirect, 0}) }, 0, ErrIndirect},
		{"indirect nested", func(g guest) {
			g.desc(descAt, 0, descriptor{dataAt, 32, descIndirect, 0})
			g.desc(dataAt, 0, descriptor{dataAt, 32, descIndirect, 0})
		}, 0, ErrIndirect},
		{"indirect loop", func(g guest) {
			g.desc(descAt, 0, descriptor{dataAt, 32, descIndirect, 0})
			g.desc(dataAt, 0, descriptor{dataAt, 1, descNext, 1})
			g.desc(dataAt, 1, descriptor{dataAt, 1, descNext, 0})
		}, 0, ErrLoop},
		{"indirect next out of range", func(g guest) {
			g.desc(descAt, 0, descriptor{dataAt, 32, descIndirect, 0})
			g.desc(dataAt, 0, descriptor{dataAt, 1, descNext, 2})
		}, 0, ErrDescIndex},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newGuest(t)
			q := g.queue(8, Options{Indirect: true})
			tc.setUp(g)
			g.offer(q, 0, tc.head)
			c, err := q.Next()
			if c != nil || !errors.Is(err, tc.want) || !errors.Is(err, ErrMalformed) {
				t.Errorf("Next = %v, %v, want %v", c, err, tc.want)
			}
		})
	}
}

func TestTooLongChain(t *testing.T) {
	mem, err := guestmem.New(2<<30, guestmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	g := guest{t, mem}
	q := g.queue(8, Options{})
	for i := range 3 {
		g.desc(descAt, i, descriptor{0, 2<<30 - 1, descNext, uint16(i + 1)})
	}
	g.desc(descAt, 2, descriptor{0, 2, 0, 0})
	g.offer(q, 0, 0)
	if _, err := q.Next(); !errors.Is(err, ErrTooLong) {
		t.Errorf("chain of exactly 4 GiB: %v", err)
	}
}

func TestIndirectNotNegotiated(t *testing.T) {
	g := newGuest(t)
	q := g.queue(8, Options{})
	g.desc(descAt, 0, descriptor{dataAt, 16, descIndirect, 0})
	g.offer(q, 0, 0)
	if _, err := q.Next(); !errors.Is(err, ErrIndirect) {
		t.Error(err)
	}
}

func TestSlices(t *testing.T) {
	g := newGuest(t)
	q := g.queue(8, Options{})
	for i := range 4 {
		g.desc(descAt, i, descriptor{dataAt + 0x100*uint64(i), 10, descNext | descWrite, uint16(i + 1)})
	}
	g.desc(descAt, 3, descriptor{dataAt + 0x300, 10, descWrite, 0})
	g.offer(q, 0, 0)
	c, err := q.Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.mem.Acquire(); err != nil {
		t.Fatal(err)
	}
	defer g.mem.Release()
	var lens []int
	for _, want := range []struct{ n, limit, taken int }{{25, 2, 20}, {5, 2, 5}, {15, 8, 15}} {
		s, taken, err := c.Writable.Slices(nil, uint64(want.n), want.limit)
		if err != nil || int(taken) != want.taken {
			t.Fatalf("%d bytes of %d: %v", taken, want.n, err)
		}
		for _, p := range s {
			lens = append(lens, len(p))
		}
	}
	if want := []int{10, 10, 5, 5, 10}; len(lens) != len(want) || lens[2] != 5 || lens[4] != 10 {
		t.Errorf("slices of %v, want %v", lens, want)
	}
	if _, _, err := c.Writable.Slices(nil, 1, 1); !errors.Is(err, ErrShort) {
		t.Error(err)
	}
}
