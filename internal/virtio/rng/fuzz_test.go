package rng

import (
	"errors"
	"testing"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio/queue"
	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

// FuzzRequest gives the device chains of any buffers, anywhere. It fills no more than it may, and
// says of a request that it served how much that was.
func FuzzRequest(f *testing.F) {
	mem, err := guestmem.New(1<<20, guestmem.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = mem.Close() })
	f.Add(uint32(0), uint64(0x9000), uint32(64), uint64(0xa000), uint32(0))
	f.Add(uint32(16), uint64(0x9000), uint32(4096), uint64(0xa001), uint32(1))
	f.Add(uint32(0), uint64(0x2000), uint32(64), uint64(0x1004), uint32(64)) // the rings themselves
	f.Add(uint32(0), uint64(1<<20-1), uint32(2), uint64(0), uint32(1))
	f.Add(uint32(8), uint64(0x9000), uint32(0), uint64(0), uint32(0))
	f.Fuzz(func(t *testing.T, readable uint32, first uint64, n uint32, second uint64, m uint32) {
		g := virtiotest.Attach(t, New(), mem)
		ring := g.Start(8, 0)[0]
		var buffers []virtiotest.Buffer
		if readable > 0 {
			buffers = append(buffers, virtiotest.Buffer{Addr: first, Len: readable})
		}
		buffers = append(buffers, virtiotest.Buffer{Addr: first, Len: n, Writable: true})
		if m > 0 {
			buffers = append(buffers, virtiotest.Buffer{Addr: second, Len: m, Writable: true})
		}
		head := ring.Add(buffers...)
		g.Notify(0)
		select {
		case err := <-g.Stopped:
			if !errors.Is(err, queue.ErrMalformed) {
				t.Fatal(err)
			}
			return
		default:
		}
		// The random bytes may have gone to the rings, which then say anything.
		if overlaps(ring, first, n) || overlaps(ring, second, m) {
			return
		}
		if got, written, ok := ring.Get(); !ok || got != head || uint64(written) != min(uint64(n)+uint64(m), maxBytes) {
			t.Fatalf("chain %d, %d bytes, %t", got, written, ok)
		}
	})
}

func overlaps(r *virtiotest.Ring, addr uint64, n uint32) bool {
	end := r.Used + guestmem.PageSize // the last of the ring's areas
	return addr < end && addr+uint64(n) > r.Desc
}
