package net

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio/queue"
	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

type wire struct {
	mu     sync.Mutex
	frames [][]byte
}

func (w *wire) Send(frame []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frames = append(w.frames, bytes.Clone(frame))
}

var mac = [6]byte{2, 0, 0, 0, 0, 1}

func TestTransmit(t *testing.T) {
	w := &wire{}
	g := virtiotest.New(t, New(mac, w))
	tx := g.Start(256, 0)[queueTX]
	header := make([]byte, headerSize)
	frame := bytes.Repeat([]byte{7}, 60)
	tx.Call(append(header, frame...), 0)
	tx.Call(append(header, make([]byte, 13)...), 0)         // too short
	tx.Call(append(header, make([]byte, maxFrame+1)...), 0) // too long
	tx.Call(append(header, make([]byte, maxFrame)...), 0)
	if len(w.frames) != 2 || !bytes.Equal(w.frames[0], frame) || len(w.frames[1]) != maxFrame {
		t.Errorf("%d frames", len(w.frames))
	}
	if got := g.Config(0, 6); !bytes.Equal(got, mac[:]) {
		t.Errorf("MAC % x", got)
	}
	if got := g.Config(10, 2); !bytes.Equal(got, []byte{0xdc, 0x05}) {
		t.Errorf("MTU % x", got)
	}
}

func TestDeliver(t *testing.T) {
	d := New(mac, &wire{})
	d.Deliver(make([]byte, 60)) // nobody there
	g := virtiotest.New(t, d)
	rx := g.Start(256, 0)[queueRX]
	at := g.Alloc(2048)
	for i := range 10 {
		rx.Add(virtiotest.Buffer{Addr: at, Len: 2048, Writable: true})
		frame := bytes.Repeat([]byte{byte(i)}, 60+i)
		d.Deliver(frame)
		_, n := rx.Wait()
		want := append([]byte{10: 1, 11: 0}, frame...)
		if got := g.Bytes(at, int(n)); !bytes.Equal(got, want) {
			t.Fatalf("frame %d: % x", i, got)
		}
	}
	// Without buffers frames wait, up to a bound; then they are lost.
	for range maxWaiting + 50 {
		d.Deliver(make([]byte, 60))
	}
	d.Deliver(make([]byte, maxFrame+1))
	got := 0
	for range 2 {
		for range 200 {
			rx.Add(virtiotest.Buffer{Addr: at, Len: 2048, Writable: true})
		}
		g.Notify(queueRX)
		for {
			if _, _, ok := rx.Get(); !ok {
				break
			}
			got++
		}
	}
	if got != maxWaiting {
		t.Errorf("%d frames, want %d", got, maxWaiting)
	}
}

func TestMalformed(t *testing.T) {
	d := New(mac, &wire{})
	g := virtiotest.New(t, d)
	rings := g.Start(256, 0)
	rings[queueTX].Add(virtiotest.Buffer{Addr: g.Alloc(64), Len: headerSize - 1})
	rings[queueTX].Kick()
	if err := <-g.Stopped; !errors.Is(err, queue.ErrMalformed) {
		t.Error(err)
	}
	rx := g.Start(256, 0)[queueRX]
	rx.Add(virtiotest.Buffer{Addr: g.Alloc(64), Len: 64, Writable: true})
	d.Deliver(make([]byte, 60))
	if err := <-g.Stopped; !errors.Is(err, queue.ErrMalformed) {
		t.Error(err)
	}
}

func TestState(t *testing.T) {
	d := New(mac, &wire{})
	if err := d.Restore(d.State()); err != nil {
		t.Error(err)
	}
	if err := d.Restore(State{}); err == nil {
		t.Error("another card's state accepted")
	}
}

func FuzzFrames(f *testing.F) {
	mem, err := guestmem.New(4<<20, guestmem.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = mem.Close() })
	f.Add(make([]byte, 72), uint16(12), uint32(0x1000), uint32(2048))
	f.Add([]byte{1}, uint16(0), uint32(1<<22), uint32(1))
	f.Fuzz(func(t *testing.T, packet []byte, cut uint16, addr, room uint32) {
		w := &wire{}
		d := New(mac, w)
		g := virtiotest.Attach(t, d, mem)
		rings := g.Start(16, 0)
		rings[queueRX].Add(virtiotest.Buffer{Addr: uint64(addr), Len: room, Writable: true})
		d.Deliver(make([]byte, int(cut)%maxFrame))
		packet = packet[:min(len(packet), 1<<16)]
		at := g.Alloc(1 << 16)
		g.Put(at, packet)
		first := min(int(cut), len(packet))
		var buffers []virtiotest.Buffer
		for _, n := range []int{first, len(packet) - first} {
			if n > 0 {
				buffers = append(buffers, virtiotest.Buffer{Addr: at, Len: uint32(n)})
				at += uint64(n)
			}
		}
		if len(buffers) > 0 {
			rings[queueTX].Add(buffers...)
			g.Notify(queueTX)
		}
		for _, frame := range w.frames {
			if len(frame) < ethernetHeader || len(frame) > maxFrame {
				t.Errorf("frame of %d bytes", len(frame))
			}
		}
		for len(g.Stopped) > 0 {
			if err := <-g.Stopped; !errors.Is(err, queue.ErrMalformed) {
				t.Fatal(err)
			}
		}
	})
}
