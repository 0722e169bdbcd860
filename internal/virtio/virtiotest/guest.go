// Package virtiotest plays the guest in tests of devices: a driver for the mmio transport that works
// on the same memory, as Linux's does, through the registers and rings only.
package virtiotest

import (
	"encoding/binary"
	"testing"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/mmio"
)

// Registers and status bits, written down a second time so that a slip in the transport shows.
const (
	regMagic             = 0x000
	regVersion           = 0x004
	regDeviceID          = 0x008
	regDeviceFeatures    = 0x010
	regDeviceFeaturesSel = 0x014
	regDriverFeatures    = 0x020
	regDriverFeaturesSel = 0x024
	regQueueSel          = 0x030
	regQueueNumMax       = 0x034
	regQueueNum          = 0x038
	regQueueReady        = 0x044
	regQueueNotify       = 0x050
	regInterruptStatus   = 0x060
	regInterruptACK      = 0x064
	regStatus            = 0x070
	regQueueDesc         = 0x080
	regQueueDriver       = 0x090
	regQueueDevice       = 0x0a0
	regConfigGeneration  = 0x0fc
	regConfig            = 0x100

	// StatusRunning is what a driver that has started reads, StatusNeedsReset is added when the
	// device has stopped.
	StatusRunning    = 0x0f
	StatusNeedsReset = 0x40
)

// Guest is a driver of one device.
type Guest struct {
	TB        testing.TB
	Mem       *guestmem.Memory
	Transport *mmio.Transport
	// IRQ has an element while the interrupt line has been asserted since the last receive.
	IRQ chan struct{}
	// Stopped receives the reason for which the device was stopped.
	Stopped chan error

	next uint64 // of guest memory not yet in use
}

// memSize is the guest's RAM in bytes.
const memSize = 16 << 20

// New connects a device to a guest with memory of its own. Both end with the test.
func New(tb testing.TB, dev virtio.Device) *Guest {
	tb.Helper()
	mem, err := guestmem.New(memSize, guestmem.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = mem.Close() })
	return Attach(tb, dev, mem)
}

// Attach connects a device to a guest with the given memory.
func Attach(tb testing.TB, dev virtio.Device, mem *guestmem.Memory) *Guest {
	tb.Helper()
	g := &Guest{TB: tb, Mem: mem, IRQ: make(chan struct{}, 1), Stopped: make(chan error, 8), next: 0x1000}
	t, err := mmio.New(mmio.Config{
		Device: dev,
		Memory: mem,
		Interrupt: func(asserted bool) {
			if asserted {
				select {
				case g.IRQ <- struct{}{}:
				default:
				}
			}
		},
		Stopped: func(err error) {
			select {
			case g.Stopped <- err:
			default:
			}
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	g.Transport = t
	return g
}

// Read32 reads a register.
func (g *Guest) Read32(reg uint64) uint32 {
	var b [4]byte
	g.Transport.Read(reg, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

// Write32 writes a register.
func (g *Guest) Write32(reg uint64, v uint32) {
	g.Transport.Write(reg, binary.LittleEndian.AppendUint32(nil, v))
}

// Status reads the device status.
func (g *Guest) Status() uint32 { return g.Read32(regStatus) }

// Config reads n bytes of the configuration space.
func (g *Guest) Config(off uint64, n int) []byte {
	b := make([]byte, n)
	g.Transport.Read(regConfig+off, b)
	return b
}

// Generation reads the generation of the configuration space.
func (g *Guest) Generation() uint32 { return g.Read32(regConfigGeneration) }

// Notify kicks a queue.
func (g *Guest) Notify(queue int) { g.Write32(regQueueNotify, uint32(queue)) }

// Acknowledge reads and clears the interrupt status, as an interrupt handler does.
func (g *Guest) Acknowledge() uint32 {
	status := g.Read32(regInterruptStatus)
	g.Write32(regInterruptACK, status)
	return status
}

// DeviceFeatures reads what the device offers.
func (g *Guest) DeviceFeatures() uint64 {
	g.Write32(regDeviceFeaturesSel, 1)
	f := uint64(g.Read32(regDeviceFeatures)) << 32
	g.Write32(regDeviceFeaturesSel, 0)
	return f | uint64(g.Read32(regDeviceFeatures))
}

// Negotiate resets the device and accepts features, up to FEATURES_OK. It tells whether the device
// agreed.
func (g *Guest) Negotiate(features uint64) bool {
	g.Write32(regStatus, 0)
	g.Write32(regStatus, 1)
	g.Write32(regStatus, 3)
	g.Write32(regDriverFeaturesSel, 1)
	g.Write32(regDriverFeatures, uint32(features>>32))
	g.Write32(regDriverFeaturesSel, 0)
	g.Write32(regDriverFeatures, uint32(features))
	g.Write32(regStatus, 0xb)
	return g.Status() == 0xb
}

// Start brings the device up with all that it offers but the features in without, and returns its
// queues, each of the given size or its largest, if that is smaller.
func (g *Guest) Start(size int, without uint64) []*Ring {
	g.TB.Helper()
	if g.Read32(regMagic) != 0x74726976 || g.Read32(regVersion) != 2 || g.Read32(regDeviceID) == 0 {
		g.TB.Fatal("no device found")
	}
	features := g.DeviceFeatures() &^ without
	if !g.Negotiate(features) {
		g.TB.Fatalf("features %#x refused", features)
	}
	var rings []*Ring
	for i := 0; ; i++ {
		g.Write32(regQueueSel, uint32(i))
		n := min(size, int(g.Read32(regQueueNumMax)))
		if n == 0 {
			break
		}
		r := newRing(g, i, n, features&virtio.FeatureEventIdx != 0)
		g.SetUp(i, r.Size, r.Desc, r.Avail, r.Used)
		rings = append(rings, r)
	}
	g.Write32(regStatus, StatusRunning)
	if s := g.Status(); s != StatusRunning {
		g.TB.Fatalf("status %#x after start", s)
	}
	return rings
}

// SetUp tells the device about a queue and enables it.
func (g *Guest) SetUp(i, size int, desc, avail, used uint64) {
	g.Write32(regQueueSel, uint32(i))
	g.Write32(regQueueNum, uint32(size))
	for reg, addr := range map[uint64]uint64{regQueueDesc: desc, regQueueDriver: avail, regQueueDevice: used} {
		g.Write32(reg, uint32(addr))
		g.Write32(reg+4, uint32(addr>>32))
	}
	g.Write32(regQueueReady, 1)
}

// Alloc takes n bytes of guest memory, aligned to a page.
func (g *Guest) Alloc(n int) uint64 {
	g.TB.Helper()
	addr := g.next
	g.next += (uint64(n) + 0xfff) &^ 0xfff
	if g.next > g.Mem.Size() {
		g.TB.Fatal("out of guest memory")
	}
	return addr
}

// Bytes reads guest memory.
func (g *Guest) Bytes(addr uint64, n int) []byte {
	b := make([]byte, n)
	if err := g.Mem.ReadAt(b, addr); err != nil {
		g.TB.Helper()
		g.TB.Fatal(err)
	}
	return b
}

// Put writes guest memory.
func (g *Guest) Put(addr uint64, b []byte) {
	if err := g.Mem.WriteAt(b, addr); err != nil {
		g.TB.Helper()
		g.TB.Fatal(err)
	}
}
