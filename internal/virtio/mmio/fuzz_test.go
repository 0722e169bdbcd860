package mmio_test

import (
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/mmio"
	"github.com/aethervm/aether/internal/virtio/queue"
	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

// FuzzRestore gives a new transport any state, on memory of any content. What is accepted is what the
// transport says of itself afterwards, and does no harm when the device runs; what is refused leaves
// nothing behind.
func FuzzRestore(f *testing.F) {
	mem, err := guestmem.New(1<<20, guestmem.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = mem.Close() })
	type fields struct {
		DeviceID, Status, Sels, Interrupt, Generation uint32
		Features                                      uint64
		Queues                                        [2]struct {
			Size, LastAvail, UsedIdx, Ready uint16
			Desc, Avail, Used               uint64
		}
	}
	encode := func(s fields) []byte {
		b, err := binary.Append(nil, binary.LittleEndian, s)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	running := fields{DeviceID: 42, Status: virtiotest.StatusRunning, Features: virtio.FeatureVersion1 | virtio.FeatureEventIdx, Interrupt: 1}
	running.Queues[0].Size, running.Queues[0].Ready = 8, 1
	running.Queues[0].Desc, running.Queues[0].Avail, running.Queues[0].Used = 0x1000, 0x2000, 0x3000
	f.Add(encode(running), []byte{2: 1})
	running.Queues[0].LastAvail, running.Queues[0].UsedIdx = 0xffff, 0xfff0
	f.Add(encode(running), []byte{})
	running.Queues[1] = running.Queues[0]
	running.Queues[1].Used = 0xfffff000
	f.Add(encode(running), []byte{})
	f.Add(encode(fields{DeviceID: 42, Status: 0xb, Features: virtio.FeatureVersion1}), []byte{})
	f.Fuzz(func(t *testing.T, state, rings []byte) {
		var in fields
		if n, err := binary.Decode(state, binary.LittleEndian, &in); err != nil || n == 0 {
			return
		}
		if err := mem.WriteAt(make([]byte, 0x4000), 0); err != nil {
			t.Fatal(err)
		}
		if err := mem.WriteAt(rings[:min(len(rings), 0x3000)], 0x1000); err != nil {
			t.Fatal(err)
		}
		s := mmio.State{
			DeviceID: in.DeviceID, Status: in.Status, DeviceFeaturesSel: in.Sels, DriverFeaturesSel: in.Sels,
			DriverFeatures: in.Features, QueueSel: in.Sels, InterruptStatus: in.Interrupt, ConfigGeneration: in.Generation,
		}
		for _, q := range in.Queues {
			s.Queues = append(s.Queues, mmio.QueueState{
				State: queue.State{
					Config:    queue.Config{Size: q.Size, Desc: q.Desc, Avail: q.Avail, Used: q.Used},
					LastAvail: q.LastAvail, UsedIdx: q.UsedIdx,
				},
				Ready: q.Ready&1 != 0,
			})
		}
		dev := &echo{}
		g := virtiotest.Attach(t, dev, mem)
		if err := g.Transport.Restore(s); err != nil {
			if !errors.Is(err, mmio.ErrState) {
				t.Fatalf("untyped error: %v", err)
			}
			if dev.active.Load() || g.Status() != 0 {
				t.Fatalf("a state that was refused (%v) left status %#x", err, g.Status())
			}
			return
		}
		if dev.active.Load() != (s.Status == virtiotest.StatusRunning) {
			t.Fatalf("active %t in status %#x", dev.active.Load(), s.Status)
		}
		again, err := g.Transport.State()
		if err != nil {
			t.Fatal(err)
		}
		for i := range s.Queues {
			if !dev.active.Load() || !s.Queues[i].Ready {
				s.Queues[i].LastAvail, s.Queues[i].UsedIdx = 0, 0 // of a queue that has not begun
			}
		}
		if !reflect.DeepEqual(s, again) {
			t.Fatalf("restored %+v, got %+v", s, again)
		}
		// Rings that lie over each other can keep the device busy for ever, though no vCPU runs: Resume
		// ends all the same, and Pause ends what it has left.
		g.Transport.Resume()
		g.Transport.Pause()
		select {
		case err := <-g.Stopped:
			if !errors.Is(err, queue.ErrMalformed) {
				t.Fatal(err)
			}
		default:
		}
	})
}
