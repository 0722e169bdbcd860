package mmio_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

// endless is a device whose driver keeps it busy.
type endless struct {
	echo
	busy   atomic.Bool
	rounds atomic.Uint64
}

func (e *endless) Process(int) (bool, error) {
	e.rounds.Add(1)
	return e.busy.Load(), nil
}

// A call on the host's side of a device, or Resume, ends though the guest keeps the device busy. What it has left
// to do is done all the same, until the device is paused.
func TestHostIsNotHeldUp(t *testing.T) {
	d := &endless{}
	g := virtiotest.New(t, d)
	g.Start(8, 0)
	d.busy.Store(true)
	for range 3 {
		d.link.Notify(0)
	}
	goesOn := func() {
		t.Helper()
		from := d.rounds.Load()
		for start := time.Now(); d.rounds.Load() < from+1000; time.Sleep(time.Millisecond) {
			if time.Since(start) > 20*time.Second {
				t.Fatal("the queue is not served any more")
			}
		}
	}
	goesOn()
	g.Transport.Pause()
	n := d.rounds.Load()
	d.link.Notify(0)
	if got := d.rounds.Load(); got != n {
		t.Errorf("a paused device was served %d times", got-n)
	}
	g.Transport.Resume()
	goesOn()
	d.busy.Store(false)
}
