package mmio_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/mmio"
	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

func TestSaveRestore(t *testing.T) {
	g := virtiotest.New(t, &echo{})
	rings := g.Start(8, 0)
	for range 11 {
		rings[0].Call([]byte("before"), 10)
	}
	if _, err := g.Transport.State(); err == nil {
		t.Error("state of a running device")
	}
	g.Transport.Pause()
	rings[0].NoInterrupt()
	in, out := g.Alloc(64), g.Alloc(64)
	g.Put(out, []byte("while paused"))
	rings[0].Add(virtiotest.Buffer{Addr: out, Len: 12}, virtiotest.Buffer{Addr: in, Len: 20, Writable: true})
	rings[0].Kick()
	if _, _, ok := rings[0].Get(); ok {
		t.Fatal("a paused device works")
	}
	s, err := g.Transport.State()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := g.Mem.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	defer layer.Close()
	for range 2 { // two forks
		mem, err := guestmem.Fork(layer.Size(), []guestmem.Extent{layer.Extent()}, guestmem.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer mem.Close()
		fork := virtiotest.Attach(t, &echo{}, mem)
		if err := fork.Transport.Restore(s); err != nil {
			t.Fatal(err)
		}
		ring := rings[0].Moved(fork)
		fork.Notify(0)
		if _, _, ok := ring.Get(); ok {
			t.Error("works before it is resumed")
		}
		fork.Transport.Resume()
		if _, n, ok := ring.Get(); !ok || n != 12 || string(fork.Bytes(in, 12)) != "while paused" {
			t.Errorf("request of the time before: %t, %d", ok, n)
		}
		select {
		case <-fork.IRQ:
		default:
			t.Error("no interrupt after the restore")
		}
		if err := fork.Transport.Restore(s); !errors.Is(err, mmio.ErrState) {
			t.Errorf("restore of a device in use: %v", err)
		}
		fork.Transport.Pause()
		again, err := fork.Transport.State()
		if err != nil || again.Queues[0].UsedIdx != 12 || again.Queues[0].LastAvail != 12 || again.Status != s.Status {
			t.Errorf("state %+v, %v", again, err)
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	g := virtiotest.New(t, &echo{})
	g.Start(8, 0)
	g.Transport.Pause()
	for name, spoil := range map[string]func(*mmio.State){
		"other device":       func(s *mmio.State) { s.DeviceID = 1 },
		"queue missing":      func(s *mmio.State) { s.Queues = s.Queues[:1] },
		"feature unknown":    func(s *mmio.State) { s.DriverFeatures |= 1 << 60 },
		"version 0":          func(s *mmio.State) { s.DriverFeatures &^= virtio.FeatureVersion1 },
		"status":             func(s *mmio.State) { s.Status = 0x4 },
		"interrupt":          func(s *mmio.State) { s.InterruptStatus = 4 },
		"queue outside":      func(s *mmio.State) { s.Queues[0].Desc = 1 << 50 },
		"queue too large":    func(s *mmio.State) { s.Queues[1].Size = 16 },
		"queue of odd size":  func(s *mmio.State) { s.Queues[1].Size = 3 },
		"queue without size": func(s *mmio.State) { s.Queues[1].Size = 0 },
	} {
		s, err := g.Transport.State()
		if err != nil {
			t.Fatal(err)
		}
		spoil(&s)
		dev := &echo{}
		fresh := virtiotest.Attach(t, dev, g.Mem)
		if err := fresh.Transport.Restore(s); !errors.Is(err, mmio.ErrState) {
			t.Errorf("%s: %v", name, err)
		}
		if dev.active.Load() || fresh.Status() != 0 {
			t.Errorf("%s: left half restored", name)
		}
	}
}

// FuzzRegisters plays a sequence of register accesses, with rings that are partly set up by the
// sequence and partly noise.
func FuzzRegisters(f *testing.F) {
	mem, err := guestmem.New(1<<20, guestmem.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = mem.Close() })
	type access struct{ reg, value uint32 }
	encode := func(seq ...access) (b []byte) {
		for _, a := range seq {
			b = append(b, byte(a.reg>>2))
			b = binary.LittleEndian.AppendUint32(b, a.value)
		}
		return b
	}
	start := []access{{0x70, 1}, {0x70, 3}, {0x24, 1}, {0x20, 1}, {0x24, 0}, {0x20, 0x30000000}, {0x70, 0xb}, {0x38, 8}, {0x80, 0x100}, {0x90, 0x200}, {0xa0, 0x300}, {0x44, 1}, {0x70, 0xf}}
	f.Add(encode(start...), []byte{})
	f.Add(encode(append(start, access{0x50, 0}, access{0x60, 0}, access{0x64, 3}, access{0x44, 0}, access{0x70, 0})...), []byte{2: 1})
	f.Add(encode(access{0x70, 0xff}, access{0x100, 7}), []byte{})
	f.Fuzz(func(t *testing.T, seq, ring []byte) {
		if err := mem.WriteAt(make([]byte, 0x1000), 0); err != nil {
			t.Fatal(err)
		}
		if err := mem.WriteAt(ring[:min(len(ring), 0x1000)], 0x200); err != nil {
			t.Fatal(err)
		}
		dev := &echo{}
		g := virtiotest.Attach(t, virtiotest.Tired(dev), mem)
		for ; len(seq) >= 5; seq = seq[5:] {
			reg, v := uint64(seq[0])<<2, seq[1:5]
			switch reg {
			case 0xfc: // free at the write side: odd widths and places
				b := make([]byte, v[0]&15)
				g.Transport.Write(uint64(binary.LittleEndian.Uint16(v[2:])), b)
				g.Transport.Read(uint64(binary.LittleEndian.Uint16(v[2:])), b)
			case 0x60:
				g.Transport.Pause()
				s, err := g.Transport.State()
				if err != nil {
					t.Fatal(err)
				}
				// What the transport says of itself, it accepts.
				if err := virtiotest.Attach(t, &echo{}, mem).Transport.Restore(s); err != nil {
					t.Fatalf("%+v: %v", s, err)
				}
				g.Transport.Resume()
			default:
				g.Transport.Write(reg, v)
			}
			g.Read32(reg)
			if dev.active.Load() != (g.Status() == virtiotest.StatusRunning) {
				t.Fatalf("active %t in status %#x", dev.active.Load(), g.Status())
			}
		}
	})
}
