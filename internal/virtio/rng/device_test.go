package rng

import (
	"bytes"
	"errors"
	"testing"

	"github.com/aethervm/aether/internal/virtio/queue"
	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

func TestEntropy(t *testing.T) {
	ring := virtiotest.New(t, New()).Start(8, 0)[0]
	seen := map[string]bool{}
	for range 100 {
		got := ring.Call(nil, 64)
		if len(got) != 64 || bytes.Equal(got[32:], make([]byte, 32)) || seen[string(got)] {
			t.Fatalf("%d bytes: % x", len(got), got)
		}
		seen[string(got)] = true
	}
}

func TestRequestIsBounded(t *testing.T) {
	g := virtiotest.New(t, New())
	ring := g.Start(8, 0)[0]
	if got := ring.Call(nil, 1<<20); len(got) != maxBytes {
		t.Errorf("%d bytes at once", len(got))
	}
}

func TestNothingToFill(t *testing.T) {
	g := virtiotest.New(t, New())
	ring := g.Start(8, 0)[0]
	ring.Add(virtiotest.Buffer{Addr: g.Alloc(8), Len: 8})
	ring.Kick()
	if err := <-g.Stopped; !errors.Is(err, queue.ErrMalformed) {
		t.Error(err)
	}
}
