package machine

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/codec"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/virtio/mmio"
	"github.com/aethervm/aether/internal/virtio/queue"
)

func exampleState() *State {
	s := &State{
		VCPUs:  []*kvm.VCPUState{{HasLAPIC: true, MSRs: []kvm.MSREntry{{Index: 0x10, Data: 99}}}, {}},
		Clock:  3 * time.Second,
		Serial: SerialState{IER: 1, MCR: 2, Divisor: [2]byte{3, 4}, Sent: true, Loopback: []byte("x")},
		Transports: []mmio.State{
			{DeviceID: 2, Status: 15, DriverFeatures: 1 << 32, InterruptStatus: 1, Queues: []mmio.QueueState{
				{State: queue.State{Config: queue.Config{Size: 8, Desc: 1 << 20, Avail: 5, Used: 6}, LastAvail: 7, UsedIdx: 8}, Ready: true},
			}},
			{DeviceID: 19},
		},
	}
	s.IOAPIC.Entries[boot.SerialGSI], s.IOAPIC.Pending[3], s.IOAPIC.ID = 0x31, true, 1<<24
	return s
}

func decodeWhole(b []byte) (*State, error) {
	d := codec.NewDecoder(b)
	s := DecodeState(d)
	return s, d.End()
}

func TestStateEncoding(t *testing.T) {
	want := exampleState()
	b := want.Append(nil)
	if got, err := decodeWhole(b); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v: %v", got, err)
	}
	for n := 0; n < len(b); n += 7 {
		if _, err := decodeWhole(b[:n]); !errors.Is(err, codec.ErrMalformed) {
			t.Fatalf("of %d bytes: %v", n, err)
		}
	}
}

// FuzzStateEncoding: any bytes are an error, or a state that is encoded as it came.
func FuzzStateEncoding(f *testing.F) {
	f.Add(exampleState().Append(nil))
	f.Add((&State{}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeWhole(b)
		if err != nil {
			if !errors.Is(err, codec.ErrMalformed) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		again, err := decodeWhole(s.Append(nil))
		if err != nil || !bytes.Equal(again.Append(nil), s.Append(nil)) {
			t.Fatalf("encoded again: %v", err)
		}
	})
}
