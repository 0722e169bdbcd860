package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/aethervm/aether/internal/guestmem"
)

// Where the test's queue lies.
const (
	descAt  = 0x1000
	availAt = 0x5000
	usedAt  = 0x6000
	dataAt  = 0x10000
	memSize = 1 << 20
)

type guest struct {
	testing.TB
	mem *guestmem.Memory
}

func newGuest(tb testing.TB) guest {
	mem, err := guestmem.New(memSize, guestmem.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = mem.Close() })
	return guest{tb, mem}
}

func (g guest) queue(size uint16, opt Options) *Queue {
	g.Helper()
	q, err := New(g.mem, Config{Size: size, Desc: descAt, Avail: availAt, Used: usedAt}, opt)
	if err != nil {
		g.Fatal(err)
	}
	return q
}

func (g guest) put16(addr uint64, v uint16) {
	g.Helper()
	if err := g.mem.WriteUint16(addr, v); err != nil {
		g.Fatal(err)
	}
}

func (g guest) get16(addr uint64) uint16 {
	g.Helper()
	v, err := g.mem.ReadUint16(addr)
	if err != nil {
		g.Fatal(err)
	}
	return v
}

func (g guest) desc(table uint64, i int, d descriptor) {
	g.Helper()
	b := binary.LittleEndian.AppendUint64(nil, d.addr)
	b = binary.LittleEndian.AppendUint32(b, d.len)
	b = binary.LittleEndian.AppendUint16(b, d.flags)
	b = binary.LittleEndian.AppendUint16(b, d.next)
	if err := g.mem.WriteAt(b, table+16*uint64(i)); err != nil {
		g.Fatal(err)
	}
}

func (g guest) offer(q *Queue, idx, head uint16) {
	g.put16(availAt+4+2*uint64(idx%q.cfg.Size), head)
	g.put16(availAt+2, idx+1)
}

func TestConfig(t *testing.T) {
	g := newGuest(t)
	good := Config{Size: 8, Desc: descAt, Avail: availAt, Used: usedAt}
	for _, tc := range []struct {
		name string
		set  func(*Config)
		ok   bool
	}{
		{"good", func(*Config) {}, true},
		{"largest", func(c *Config) { c.Size = MaxSize; c.Avail = 0x8000; c.Used = 0x9000 }, true},
		{"used ring at the end", func(c *Config) { c.Used = memSize - 4 - 8*8 - 4 }, true},
		{"no size", func(c *Config) { c.Size = 0 }, false},
		{"odd size", func(c *Config) { c.Size = 6 }, false},
		{"too large", func(c *Config) { c.Size = 2 * MaxSize }, false},
		{"misaligned table", func(c *Config) { c.Desc += 8 }, false},
		{"misaligned avail", func(c *Config) { c.Avail++ }, false},
		{"misaligned used", func(c *Config) { c.Used += 2 }, false},
		{"table outside", func(c *Config) { c.Desc = memSize }, false},
		{"table half outside", func(c *Config) { c.Desc = memSize - 64 }, false},
		{"used event outside", func(c *Config) { c.Avail = memSize - 4 - 2*8 }, false},
		{"avail event outside", func(c *Config) { c.Used = memSize - 4 - 8*8 }, false},
		{"wraps", func(c *Config) { c.Desc = 1<<64 - 16 }, false},
	} {
		c := good
		tc.set(&c)
		_, err := New(g.mem, c, Options{})
		if tc.ok != (err == nil) || (err != nil && (!errors.Is(err, ErrConfig) || !errors.Is(err, ErrMalformed))) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestAvailIndexJump(t *testing.T) {
	for idx, want := range map[uint16]error{0: nil, 8: nil, 9: ErrAvailIndex, 0xffff: ErrAvailIndex} {
		g := newGuest(t)
		q := g.queue(8, Options{})
		g.put16(availAt+2, idx)
		empty, err := q.Empty()
		if !errors.Is(err, want) || (err == nil && empty != (idx == 0)) {
			t.Errorf("index %d: empty %t, %v", idx, empty, err)
		}
		if _, _, err := q.Drain(q.Size(), func(*Chain) (uint32, error) { return 0, nil }); idx > 8 && !errors.Is(err, ErrAvailIndex) {
			t.Errorf("index %d: drain: %v", idx, err)
		}
	}
}

// The indices pass 65535, with every ring entry used many times.
func TestIndicesWrap(t *testing.T) {
	for _, opt := range []Options{{}, {EventIdx: true}} {
		g := newGuest(t)
		q := g.queue(4, opt)
		g.desc(descAt, 1, descriptor{dataAt, 16, descWrite, 0})
		for i := range uint32(1<<16 + 10) {
			g.offer(q, uint16(i), 1)
			g.put16(availAt+4+2*4, uint16(i)) // the driver wants to hear of every one
			interrupt, more, err := q.Drain(q.Size(), func(*Chain) (uint32, error) { return i, nil })
			if !interrupt || more || err != nil {
				t.Fatalf("chain %d: interrupt %t, more %t, %v", i, interrupt, more, err)
			}
			elem := make([]byte, 8)
			if err := g.mem.ReadAt(elem, usedAt+4+8*uint64(i%4)); err != nil {
				t.Fatal(err)
			}
			if want := append([]byte{1, 0, 0, 0}, binary.LittleEndian.AppendUint32(nil, i)...); !bytes.Equal(elem, want) || g.get16(usedAt+2) != uint16(i+1) {
				t.Fatalf("chain %d: used element %x, index %d", i, elem, g.get16(usedAt+2))
			}
		}
	}
}

func TestNotificationSuppression(t *testing.T) {
	serve := func(*Chain) (uint32, error) { return 0, nil }
	t.Run("flags", func(t *testing.T) {
		g := newGuest(t)
		q := g.queue(8, Options{})
		g.desc(descAt, 0, descriptor{dataAt, 1, 0, 0})
		g.offer(q, 0, 0)
		g.put16(availAt, availNoInterrupt)
		during := uint16(0)
		interrupt, _, err := q.Drain(q.Size(), func(*Chain) (uint32, error) { during = g.get16(usedAt); return 0, nil })
		if interrupt || err != nil || during != usedNoNotify || g.get16(usedAt) != 0 {
			t.Errorf("interrupt %t, %v; flags %d then %d", interrupt, err, during, g.get16(usedAt))
		}
		g.put16(availAt, 0)
		g.offer(q, 1, 0)
		if interrupt, _, err := q.Drain(q.Size(), serve); !interrupt || err != nil {
			t.Errorf("interrupt %t, %v", interrupt, err)
		}
	})
	t.Run("event index", func(t *testing.T) {
		g := newGuest(t)
		q := g.queue(8, Options{EventIdx: true})
		g.desc(descAt, 0, descriptor{dataAt, 1, 0, 0})
		usedEvent, availEvent := uint64(availAt+4+2*8), uint64(usedAt+4+8*8)
		for i, step := range []struct {
			event uint16
			want  bool
		}{{5, true} /* the first is always told */, {5, false}, {2, true}, {9, false}, {4, true}, {4, false}} {
			g.offer(q, uint16(i), 0)
			g.put16(usedEvent, step.event)
			interrupt, _, err := q.Drain(q.Size(), serve)
			if interrupt != step.want || err != nil {
				t.Errorf("used %d, event %d: interrupt %t, %v", i+1, step.event, interrupt, err)
			}
			if got := g.get16(availEvent); got != uint16(i+1) {
				t.Errorf("available event %d after %d chains", got, i+1)
			}
		}
	})
}

// A chain that arrives while the device goes to sleep must not be forgotten.
func TestEnableNotifySeesLateChain(t *testing.T) {
	g := newGuest(t)
	q := g.queue(8, Options{EventIdx: true})
	g.desc(descAt, 0, descriptor{dataAt, 1, 0, 0})
	if empty, err := q.Empty(); !empty || err != nil {
		t.Fatal(empty, err)
	}
	g.offer(q, 0, 0)
	if more, err := q.EnableNotify(); !more || err != nil {
		t.Errorf("more %t, %v", more, err)
	}
}

func TestDrainIsBounded(t *testing.T) {
	g := newGuest(t)
	q := g.queue(4, Options{})
	g.desc(descAt, 0, descriptor{dataAt, 1, 0, 0})
	g.offer(q, 0, 0)
	n := uint16(0)
	_, more, err := q.Drain(q.Size(), func(*Chain) (uint32, error) { n++; g.offer(q, n, 0); return 0, nil })
	if n != 4 || !more || err != nil {
		t.Errorf("%d chains, more %t, %v", n, more, err)
	}
}

func TestDrainPublishesBeforeError(t *testing.T) {
	g := newGuest(t)
	q := g.queue(4, Options{})
	g.desc(descAt, 0, descriptor{dataAt, 1, 0, 0})
	g.offer(q, 0, 0)
	g.offer(q, 1, 77)
	interrupt, _, err := q.Drain(q.Size(), func(*Chain) (uint32, error) { return 0, nil })
	if !interrupt || !errors.Is(err, ErrDescIndex) || g.get16(usedAt+2) != 1 {
		t.Errorf("interrupt %t, used %d, %v", interrupt, g.get16(usedAt+2), err)
	}
}

func TestStateContinues(t *testing.T) {
	g := newGuest(t)
	q := g.queue(4, Options{EventIdx: true})
	g.desc(descAt, 0, descriptor{dataAt, 1, 0, 0})
	serve := func(*Chain) (uint32, error) { return 7, nil }
	for i := range uint16(6) {
		g.offer(q, i, 0)
		if _, _, err := q.Drain(q.Size(), serve); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Restore(g.mem, q.State(), Options{EventIdx: true})
	if err != nil {
		t.Fatal(err)
	}
	g.offer(r, 6, 0)
	interrupt, _, err := r.Drain(r.Size(), serve)
	if !interrupt || err != nil || g.get16(usedAt+2) != 7 || r.State().LastAvail != 7 {
		t.Errorf("interrupt %t, %v, used %d, state %+v", interrupt, err, g.get16(usedAt+2), r.State())
	}
	bad := q.State()
	bad.Used = memSize
	if _, err := Restore(g.mem, bad, Options{}); !errors.Is(err, ErrConfig) {
		t.Error(err)
	}
}

func TestStoppedQueueTouchesNothing(t *testing.T) {
	g := newGuest(t)
	q := g.queue(4, Options{})
	g.desc(descAt, 0, descriptor{dataAt, 1, 0, 0})
	g.offer(q, 0, 0)
	q.Stop()
	if c, err := q.Next(); c != nil || err != nil {
		t.Error(c, err)
	}
	if err := q.Push(0, 1); err != nil {
		t.Error(err)
	}
	if interrupt, more, err := q.Drain(q.Size(), func(*Chain) (uint32, error) { t.Error("served"); return 0, nil }); interrupt || more || err != nil {
		t.Error(interrupt, more, err)
	}
	for off := range uint64(32) {
		if v := g.get16(usedAt + 2*off); v != 0 {
			t.Errorf("used ring written: %#x at %d", v, 2*off)
		}
	}
}

func TestClosedMemory(t *testing.T) {
	g := newGuest(t)
	q := g.queue(4, Options{})
	if err := g.mem.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Next(); !errors.Is(err, guestmem.ErrClosed) || errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}
