package machine

import (
	"time"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/codec"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/virtio/mmio"
)

// maxQueues is more than any device has.
const maxQueues = 16

// The parts of a state that are of fixed size, in the order of the encoding.
type (
	serialFixed struct {
		IER, FCR, LCR, MCR, Scratch byte
		Divisor                     [2]byte
		Sent                        bool
	}
	transportFixed struct {
		DeviceID, Status                     uint32
		DeviceFeaturesSel, DriverFeaturesSel uint32
		DriverFeatures                       uint64
		QueueSel                             uint32
		InterruptStatus, ConfigGeneration    uint32
	}
)

// Append appends the encoded state to b. Who keeps it says of which version it is.
func (s *State) Append(b []byte) []byte {
	b = codec.AppendCount(b, len(s.VCPUs))
	for _, v := range s.VCPUs {
		b = v.Append(b)
	}
	b = codec.Append(codec.Append(b, int64(s.Clock)), s.IOAPIC)
	b = codec.Append(b, serialFixed{
		IER: s.Serial.IER, FCR: s.Serial.FCR, LCR: s.Serial.LCR, MCR: s.Serial.MCR, Scratch: s.Serial.Scratch,
		Divisor: s.Serial.Divisor, Sent: s.Serial.Sent,
	})
	b = codec.AppendBytes(b, s.Serial.Loopback)
	b = codec.AppendCount(b, len(s.Transports))
	for _, t := range s.Transports {
		b = codec.Append(b, transportFixed{
			DeviceID: t.DeviceID, Status: t.Status, DeviceFeaturesSel: t.DeviceFeaturesSel,
			DriverFeaturesSel: t.DriverFeaturesSel, DriverFeatures: t.DriverFeatures, QueueSel: t.QueueSel,
			InterruptStatus: t.InterruptStatus, ConfigGeneration: t.ConfigGeneration,
		})
		b = codec.AppendCount(b, len(t.Queues))
		for _, q := range t.Queues {
			b = codec.Append(b, q)
		}
	}
	return b
}

// DecodeState reads what Append has written. Errors are the decoder's. Whether the state can be one of a
// machine is for Restore to say.
func DecodeState(d *codec.Decoder) *State {
	s := &State{}
	for range d.Count(boot.MaxVCPUs) {
		s.VCPUs = append(s.VCPUs, kvm.DecodeVCPUState(d))
	}
	var clock int64
	d.Value(&clock)
	if s.Clock = time.Duration(clock); clock < 0 {
		d.Fail("a clock at %v", s.Clock)
	}
	d.Value(&s.IOAPIC)
	var serial serialFixed
	d.Value(&serial)
	s.Serial = SerialState{
		IER: serial.IER, FCR: serial.FCR, LCR: serial.LCR, MCR: serial.MCR, Scratch: serial.Scratch,
		Divisor: serial.Divisor, Sent: serial.Sent,
	}
	if loopback := d.Bytes(serialFIFO); len(loopback) > 0 {
		s.Serial.Loopback = append([]byte(nil), loopback...)
	}
	for range d.Count(boot.MaxDevices) {
		s.Transports = append(s.Transports, decodeTransport(d))
	}
	return s
}

func decodeTransport(d *codec.Decoder) mmio.State {
	var f transportFixed
	d.Value(&f)
	t := mmio.State{
		DeviceID: f.DeviceID, Status: f.Status, DeviceFeaturesSel: f.DeviceFeaturesSel,
		DriverFeaturesSel: f.DriverFeaturesSel, DriverFeatures: f.DriverFeatures, QueueSel: f.QueueSel,
		InterruptStatus: f.InterruptStatus, ConfigGeneration: f.ConfigGeneration,
	}
	for range d.Count(maxQueues) {
		var q mmio.QueueState
		d.Value(&q)
		t.Queues = append(t.Queues, q)
	}
	return t
}
