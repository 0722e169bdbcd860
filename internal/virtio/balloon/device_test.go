package balloon

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio/queue"
	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

type discarded []guestmem.Range

func (d *discarded) discard(r guestmem.Range) error {
	*d = append(*d, r)
	return nil
}

func frames(n ...uint32) (b []byte) {
	for _, f := range n {
		b = binary.LittleEndian.AppendUint32(b, f)
	}
	return b
}

func TestInflate(t *testing.T) {
	var got discarded
	rings := virtiotest.New(t, New(got.discard)).Start(128, 0)
	rings[queueInflate].Call(frames(9, 8, 7, 100, 7, 102, 101, 300), 0)
	want := discarded{{GPA: 0x7000, Size: 0x3000}, {GPA: 100 << 12, Size: 0x3000}, {GPA: 300 << 12, Size: 0x1000}}
	if !slices.Equal(got, want) {
		t.Errorf("discarded %x, want %x", got, want)
	}
	rings[queueDeflate].Call(frames(9, 8), 0)
	if len(got) != len(want) {
		t.Error("deflating discards")
	}
}

func TestReporting(t *testing.T) {
	var got discarded
	g := virtiotest.New(t, New(got.discard))
	ring := g.Start(128, 0)[queueReporting]
	if ring.Size < 32 {
		t.Errorf("%d descriptors, Linux wants 32", ring.Size)
	}
	ring.Add(
		virtiotest.Buffer{Addr: 2 << 20, Len: 2 << 20, Writable: true},
		virtiotest.Buffer{Addr: 6<<20 + 1, Len: 0x3000, Writable: true},
		virtiotest.Buffer{Addr: 8<<20 + 1, Len: 0x1000, Writable: true},
	)
	ring.Kick()
	ring.Wait()
	want := discarded{{GPA: 2 << 20, Size: 2 << 20}, {GPA: 6<<20 + 0x1000, Size: 0x2000}}
	if !slices.Equal(got, want) {
		t.Errorf("discarded %x, want %x", got, want)
	}
}

func TestTarget(t *testing.T) {
	d := New(nil)
	d.SetTarget(5) // before there is a driver
	g := virtiotest.New(t, d)
	g.Start(128, 0)
	if n := binary.LittleEndian.Uint32(g.Config(0, 4)); n != 5 {
		t.Errorf("target %d", n)
	}
	generation := g.Generation()
	d.SetTarget(1000)
	if s := g.Acknowledge(); s != 2 || g.Generation() == generation {
		t.Errorf("interrupt status %#x, generation %d after %d", s, g.Generation(), generation)
	}
	if n := binary.LittleEndian.Uint32(g.Config(0, 4)); n != 1000 {
		t.Errorf("target %d", n)
	}
	g.Write32(0x104, 77)
	g.Write32(0x100, 1) // not the driver's to set
	if d.Actual() != 77 {
		t.Errorf("actual %d", d.Actual())
	}
	fork := New(nil)
	if err := fork.Restore(d.State()); err != nil || fork.State() != (State{Target: 1000, Actual: 77}) {
		t.Errorf("state %+v, %v", fork.State(), err)
	}
	g.Negotiate(g.DeviceFeatures())
	if d.Actual() != 0 {
		t.Errorf("actual %d after a reset", d.Actual())
	}
}

func TestMalformed(t *testing.T) {
	for name, request := range map[string][]byte{
		"half a number":  frames(1)[:3],
		"too many":       make([]byte, 4*maxFrames+4),
		"outside":        frames(1, 1<<32-1),
		"just outside":   frames(16 << 20 >> 12),
		"first but wrap": frames(1 << 20),
	} {
		var got discarded
		g := virtiotest.New(t, New(got.discard))
		ring := g.Start(128, 0)[queueInflate]
		at := g.Alloc(len(request))
		g.Put(at, request)
		ring.Add(virtiotest.Buffer{Addr: at, Len: uint32(len(request))})
		ring.Kick()
		if err := <-g.Stopped; !errors.Is(err, queue.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if len(got) != 0 {
			t.Errorf("%s: discarded %x", name, got)
		}
	}
}

func TestDiscardFails(t *testing.T) {
	boom := errors.New("no")
	for i, buffer := range map[int]virtiotest.Buffer{
		queueInflate:   {Addr: 0, Len: 4},
		queueReporting: {Addr: 0x100000, Len: 4096, Writable: true},
	} {
		g := virtiotest.New(t, New(func(guestmem.Range) error { return boom }))
		ring := g.Start(128, 0)[i]
		ring.Add(buffer)
		ring.Kick()
		if err := <-g.Stopped; !errors.Is(err, boom) || errors.Is(err, queue.ErrMalformed) {
			t.Errorf("queue %d: %v", i, err)
		}
	}
}

// FuzzReport checks that whatever is reported or given up, only whole pages of RAM are discarded.
func FuzzReport(f *testing.F) {
	mem, err := guestmem.New(4<<20, guestmem.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = mem.Close() })
	f.Add(byte(0), frames(1, 2, 3), uint64(0), uint32(0))
	f.Add(byte(0), frames(1023, 1024), uint64(0), uint32(0))
	f.Add(byte(1), []byte{1, 2, 3}, uint64(0x1fff), uint32(0x2002))
	f.Add(byte(2), []byte{}, uint64(0x1000), uint32(2<<20))
	f.Add(byte(2), []byte{9}, uint64(4<<20-1), uint32(1))
	f.Fuzz(func(t *testing.T, which byte, request []byte, addr uint64, n uint32) {
		d := New(func(r guestmem.Range) error {
			if r.Size == 0 || (r.GPA|r.Size)%guestmem.PageSize != 0 || r.End() > mem.Size() || r.GPA >= r.End() {
				t.Fatalf("discard %+v", r)
			}
			return nil
		})
		g := virtiotest.Attach(t, d, mem)
		rings := g.Start(16, 0)
		ring := rings[int(which)%len(rings)]
		request = request[:min(len(request), 1<<16)]
		var buffers []virtiotest.Buffer
		if len(request) > 0 {
			at := g.Alloc(len(request))
			g.Put(at, request)
			buffers = append(buffers, virtiotest.Buffer{Addr: at, Len: uint32(len(request))})
		}
		buffers = append(buffers, virtiotest.Buffer{Addr: addr, Len: n, Writable: true})
		ring.Add(buffers...)
		g.Notify(ring.Index)
		select {
		case err := <-g.Stopped:
			if !errors.Is(err, queue.ErrMalformed) {
				t.Fatal(err)
			}
		default:
		}
	})
}
