package mmio_test

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/queue"
	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

// echo answers each request with its own bytes.
type echo struct {
	config [4]byte

	link   virtio.Link
	active atomic.Bool
	busy   atomic.Int32 // the transport promises to call one method at a time
	resets atomic.Int32
}

func (e *echo) ID() uint32           { return 42 }
func (e *echo) Features() uint64     { return 1 << 3 }
func (e *echo) QueueSizes() []uint16 { return []uint16{64, 8} }

func (e *echo) ReadConfig(off int, p []byte)  { virtio.CopyConfig(e.config[:], off, p) }
func (e *echo) WriteConfig(off int, p []byte) { copy(e.config[min(off, 4):], p) }

func (e *echo) Activate(l virtio.Link) error {
	e.link = l
	e.active.Store(true)
	return nil
}

func (e *echo) Reset() {
	e.resets.Add(1)
	e.active.Store(false)
}

func (e *echo) Process(i int) (bool, error) {
	if e.busy.Add(1) != 1 || !e.active.Load() {
		panic("called concurrently or when not active")
	}
	defer e.busy.Add(-1)
	interrupt, more, err := e.link.Queues[i].Drain(8, func(c *queue.Chain) (uint32, error) {
		n := c.Readable.Len()
		b := make([]byte, min(n, 1<<16))
		if err := c.Readable.Read(b); err != nil {
			return 0, err
		}
		return uint32(len(b)), c.Writable.Write(b)
	})
	if interrupt {
		e.link.Interrupt()
	}
	return more, err
}

func TestRoundTrip(t *testing.T) {
	for name, without := range map[string]uint64{
		"all features":   0,
		"no event index": virtio.FeatureEventIdx,
		"no indirect":    virtio.FeatureIndirectDesc,
	} {
		t.Run(name, func(t *testing.T) {
			g := virtiotest.New(t, &echo{})
			rings := g.Start(256, without)
			if len(rings) != 2 || rings[0].Size != 64 || rings[1].Size != 8 {
				t.Fatalf("%d queues", len(rings))
			}
			for i := range 500 {
				for _, r := range rings {
					msg := bytes.Repeat([]byte{byte(i + 1)}, i+1)
					if got := r.Call(msg, i+10); !bytes.Equal(got, msg) {
						t.Fatalf("queue %d: sent %d bytes, got %d", r.Index, len(msg), len(got))
					}
				}
			}
		})
	}
}

// The guest's two processors use a queue each, with full rings, while the machine pauses now and then.
func TestConcurrentQueuesAndPauses(t *testing.T) {
	g := virtiotest.New(t, &echo{})
	rings := g.Start(64, 0)
	var wg sync.WaitGroup
	for _, r := range rings {
		out, in := g.Alloc(4096), g.Alloc(4096)
		wg.Go(func() {
			sent, received := 0, 0
			for received < 5000 {
				for r.Free() >= 2 && sent < 5000 {
					r.Add(virtiotest.Buffer{Addr: out, Len: 100}, virtiotest.Buffer{Addr: in, Len: 100, Writable: true})
					sent++
				}
				r.Kick()
				for {
					_, n, ok := r.Get()
					if !ok {
						break
					}
					if n != 100 {
						t.Errorf("%d bytes", n)
					}
					received++
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for {
		select {
		case <-done:
			return
		default:
			g.Transport.Pause()
			if _, err := g.Transport.State(); err != nil {
				t.Fatal(err)
			}
			g.Transport.Resume()
		}
	}
}

func TestNegotiation(t *testing.T) {
	g := virtiotest.New(t, &echo{})
	offered := g.DeviceFeatures()
	if want := uint64(1<<3 | virtio.FeatureVersion1 | virtio.FeatureEventIdx | virtio.FeatureIndirectDesc); offered != want {
		t.Fatalf("offered %#x, want %#x", offered, want)
	}
	if g.Negotiate(offered &^ virtio.FeatureVersion1) {
		t.Error("accepted a driver of version 0")
	}
	if g.Negotiate(offered | 1<<4) {
		t.Error("accepted a feature that was not offered")
	}
	if !g.Negotiate(virtio.FeatureVersion1) {
		t.Error("refused the least of drivers")
	}
	g.Write32(0x024, 0)
	g.Write32(0x020, 1<<3) // too late
	g.Transport.Pause()
	if s, err := g.Transport.State(); err != nil || s.DriverFeatures != virtio.FeatureVersion1 {
		t.Errorf("features %#x after FEATURES_OK, %v", s.DriverFeatures, err)
	}
}

func TestStatusOrder(t *testing.T) {
	for _, tc := range []struct {
		writes []uint32
		want   uint32
	}{
		{[]uint32{1, 3}, 3},
		{[]uint32{3}, 3},
		{[]uint32{2}, 0},
		{[]uint32{1, 4}, 1},
		{[]uint32{1, 0xf}, 1},
		{[]uint32{1, 3, 0xf}, 3},
		{[]uint32{1, 3, 1}, 3},
		{[]uint32{1, 3, 0x83}, 0x83},
		{[]uint32{1, 3, 0x83, 3}, 0x83},
		{[]uint32{1, 3, 0x83, 0}, 0},
		{[]uint32{0x41}, 0},
		{[]uint32{0xffffffff}, 0x80},
		{[]uint32{0x100}, 0},
	} {
		g := virtiotest.New(t, &echo{})
		for _, v := range tc.writes {
			g.Write32(0x70, v)
		}
		if got := g.Status(); got != tc.want {
			t.Errorf("after %#x: status %#x, want %#x", tc.writes, got, tc.want)
		}
	}
}

func TestMalformedStopsDevice(t *testing.T) {
	dev := &echo{}
	g := virtiotest.New(t, dev)
	rings := g.Start(8, 0)
	g.Acknowledge()
	rings[0].Offer(500)
	rings[0].Kick()
	err := <-g.Stopped
	if !errors.Is(err, queue.ErrDescIndex) || !errors.Is(err, queue.ErrMalformed) {
		t.Errorf("stopped because of %v", err)
	}
	if g.Status() != virtiotest.StatusRunning|virtiotest.StatusNeedsReset {
		t.Errorf("status %#x", g.Status())
	}
	if s := g.Acknowledge(); s&2 == 0 {
		t.Errorf("no configuration interrupt: %#x", s)
	}
	if dev.active.Load() {
		t.Error("still active")
	}
	g.Notify(0) // nothing happens
	g.Notify(1)
	g.Notify(1 << 20)
	if got := g.Start(8, 0)[1].Call([]byte("again"), 10); string(got) != "again" {
		t.Errorf("after a reset: %q", got)
	}
}

func TestInvalidQueuesStopDevice(t *testing.T) {
	for name, setUp := range map[string]func(*virtiotest.Guest){
		"too large":    func(g *virtiotest.Guest) { g.SetUp(1, 16, 0x1000, 0x2000, 0x3000) },
		"huge":         func(g *virtiotest.Guest) { g.SetUp(0, 1<<16+8, 0x1000, 0x2000, 0x3000) },
		"odd":          func(g *virtiotest.Guest) { g.SetUp(0, 7, 0x1000, 0x2000, 0x3000) },
		"zero":         func(g *virtiotest.Guest) { g.SetUp(0, 0, 0x1000, 0x2000, 0x3000) },
		"outside":      func(g *virtiotest.Guest) { g.SetUp(0, 8, 1<<40, 0x2000, 0x3000) },
		"misaligned":   func(g *virtiotest.Guest) { g.SetUp(0, 8, 0x1008, 0x2000, 0x3000) },
		"wraps around": func(g *virtiotest.Guest) { g.SetUp(0, 8, 0x1000, 0x2000, ^uint64(3)) },
	} {
		dev := &echo{}
		g := virtiotest.New(t, dev)
		if !g.Negotiate(g.DeviceFeatures()) {
			t.Fatal("refused")
		}
		setUp(g)
		g.Write32(0x70, 0xf)
		if err := <-g.Stopped; !errors.Is(err, queue.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
		if dev.active.Load() || g.Status()&virtiotest.StatusNeedsReset == 0 {
			t.Errorf("%s: runs, status %#x", name, g.Status())
		}
	}
}

func TestQueueWithdrawn(t *testing.T) {
	g := virtiotest.New(t, &echo{})
	rings := g.Start(8, 0)
	g.Write32(0x30, 0)
	if g.Read32(0x44) != 1 {
		t.Error("queue is not ready")
	}
	g.Write32(0x44, 0)
	if g.Read32(0x44) != 0 {
		t.Error("queue is still ready")
	}
	g.Write32(0x44, 1)
	if g.Read32(0x44) != 0 {
		t.Error("queue is ready again while the device runs")
	}
	rings[0].Offer(0)
	g.Notify(0)
	if _, _, ok := rings[0].Get(); ok {
		t.Error("a queue that is not ready was used")
	}
	if got := rings[1].Call([]byte("other"), 8); string(got) != "other" {
		t.Errorf("the other queue: %q", got)
	}
}

func TestConfigSpace(t *testing.T) {
	dev := &echo{config: [4]byte{1, 2, 3, 4}}
	g := virtiotest.New(t, dev)
	if got := g.Config(2, 8); !bytes.Equal(got, []byte{3, 4, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("config % x", got)
	}
	if got := g.Config(1<<20, 4); !bytes.Equal(got, make([]byte, 4)) {
		t.Errorf("config far outside % x", got)
	}
	before := g.Generation()
	g.Start(8, 0)
	dev.link.ConfigChanged()
	if g.Generation() == before {
		t.Error("generation did not change")
	}
	if s := g.Acknowledge(); s != 2 {
		t.Errorf("interrupt status %#x", s)
	}
	if s := g.Acknowledge(); s != 0 {
		t.Errorf("interrupt status %#x after acknowledgement", s)
	}
}

func TestAccessWidth(t *testing.T) {
	g := virtiotest.New(t, &echo{})
	for _, n := range []int{1, 2, 8} {
		b := bytes.Repeat([]byte{0xff}, n)
		g.Transport.Read(0, b)
		if !bytes.Equal(b, make([]byte, n)) {
			t.Errorf("read of %d bytes: % x", n, b)
		}
		b = make([]byte, n)
		b[0] = 1
		g.Transport.Write(0x70, b)
		if g.Status() != 0 {
			t.Errorf("write of %d bytes to the status took effect", n)
		}
	}
	if g.Read32(0xb0) != ^uint32(0) || g.Read32(0xb4) != ^uint32(0) {
		t.Error("a shared memory region exists")
	}
}
