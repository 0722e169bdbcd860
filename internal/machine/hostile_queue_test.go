package machine

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/balloon"
	"github.com/aethervm/aether/internal/virtio/blk"
	"github.com/aethervm/aether/internal/virtio/net"
	"github.com/aethervm/aether/internal/virtio/rng"
	"github.com/aethervm/aether/internal/virtio/vsock"
)

// The devices that hostile guests have, by index.
const (
	devBlk = iota
	devRNG
	devBalloon
	devNet
	devVsock
	hostileDevices
)

const hostileCID = 3

// everyDevice returns one device of each kind.
func everyDevice(t *testing.T) []virtio.Device {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	image, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = image.Close() })
	disk, err := blk.New(blk.Config{Image: image, ID: "disk"})
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := vsock.New(hostileCID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sockets.Close() })
	discard := func(guestmem.Range) error { return nil }
	return []virtio.Device{disk, rng.New(), balloon.New(discard), net.New([6]byte{2}, nowhere{}), sockets}
}

// nowhere is a network that loses all frames.
type nowhere struct{}

func (nowhere) Send([]byte) {}

func hostileRing(dev, index int) ring {
	r := ring{dev: dev, index: index, size: hostileSize}
	if dev == devRNG || dev == devVsock && index == 2 {
		r.size = 8
	}
	return r
}

// A guest that notifies queues, those with nothing in them and those that do not exist.
func TestHostileNotify(t *testing.T) {
	r := hostileRing(devRNG, 0)
	var flood []byte
	for _, q := range []uint32{0, 1, 2, 77, 1023, 1024, 1 << 31, 1<<32 - 1} {
		flood = append(flood, store32(register(devRNG, 0x50), q)...)
		flood = append(flood, store32(register(devBlk, 0x50), q)...) // it has no driver
	}
	code := slices.Concat(drive(devRNG, 0, r), repeat(10, flood))
	attack{devices: everyDevice(t), code: [][]byte{code}}.run(t)
}

// A guest that gives a queue more to do for as long as another vCPU of it has the queue served.
func TestHostileBusyQueue(t *testing.T) {
	r := hostileRing(devRNG, 0)
	ram := memory{}
	ram.fill(r, r.size, func(i int) descriptor {
		return descriptor{addr: hostileBuffers + 4096*uint64(i), len: 4096, flags: descWrite}
	})
	attack{
		devices: everyDevice(t), ram: ram, waits: 1,
		code: [][]byte{repeat(1<<16, refill(r)), slices.Concat(drive(devRNG, 0, r), repeat(1<<30, notify(r)))},
	}.run(t)
}

// Guests that break the rules of rings and requests, have the device stopped for it, reset it, and do
// it again.
func TestHostileRings(t *testing.T) {
	const buf = hostileBuffers
	ok := func(i int) descriptor { return descriptor{addr: buf + 4096*uint64(i), len: 512, flags: descWrite} }
	all := func(d descriptor) func(int) descriptor { return func(int) descriptor { return d } }
	word := func(v ...uint32) (b []byte) {
		for _, w := range v {
			b = append(b, imm32(w)...)
		}
		return b
	}
	for name, c := range map[string]struct {
		ring    ring
		desc    func(i int) descriptor
		offered int               // 0: one
		content map[uint64][]byte // at buf and after it
	}{
		"length beyond memory": {ring: hostileRing(devRNG, 0), desc: all(descriptor{addr: microMemory - 16, len: 17, flags: descWrite})},
		"length of 4 GiB":      {ring: hostileRing(devBlk, 0), desc: all(descriptor{addr: buf, len: 1<<32 - 1})},
		"address wraps":        {ring: hostileRing(devRNG, 0), desc: all(descriptor{addr: 1<<64 - 4, len: 8, flags: descWrite})},
		"no length":            {ring: hostileRing(devRNG, 0), desc: all(descriptor{addr: buf, flags: descWrite})},
		"chain to itself":      {ring: hostileRing(devBlk, 0), desc: all(descriptor{addr: buf, len: 1, flags: descNext})},
		"chain in a circle": {ring: hostileRing(devNet, 1), desc: func(i int) descriptor {
			return descriptor{addr: buf, len: 1, flags: descNext, next: uint16(i+1) % hostileSize}
		}},
		"chain out of the table": {ring: hostileRing(devRNG, 0), desc: all(descriptor{addr: buf, len: 1, flags: descNext | descWrite, next: 9})},
		"available index jumps":  {ring: hostileRing(devRNG, 0), desc: ok, offered: 0x8000},
		"nested indirect table": {ring: hostileRing(devBlk, 0), desc: all(descriptor{addr: buf, len: 32, flags: descIndirect}), content: map[uint64][]byte{
			buf: descriptor{addr: buf, len: 32, flags: descIndirect}.bytes(),
		}},
		"read after write": {ring: hostileRing(devBlk, 0), desc: func(i int) descriptor {
			return descriptor{addr: buf, len: 16, flags: []uint16{descNext | descWrite, 0}[i%2], next: 1}
		}},
		"disk request without status": {ring: hostileRing(devBlk, 0), desc: all(descriptor{addr: buf, len: 16})},
		"half a balloon page":         {ring: hostileRing(devBalloon, 0), desc: all(descriptor{addr: buf, len: 3})},
		"balloon page beyond memory": {ring: hostileRing(devBalloon, 0), desc: all(descriptor{addr: buf, len: 8}), content: map[uint64][]byte{
			buf: word(1, 1<<32-1),
		}},
		"half a frame's header":  {ring: hostileRing(devNet, 1), desc: all(descriptor{addr: buf, len: 11})},
		"half a packet's header": {ring: hostileRing(devVsock, 1), desc: all(descriptor{addr: buf, len: 43})},
		"packet longer than it is": {ring: hostileRing(devVsock, 1), desc: all(descriptor{addr: buf, len: 64}), content: map[uint64][]byte{
			buf: packet(1, 80, vsockData, 21),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ram := memory{}
			ram.fill(c.ring, max(c.offered, 1), c.desc)
			for gpa, b := range c.content {
				ram[gpa] = b
			}
			code := slices.Concat(drive(c.ring.dev, descFeature, c.ring), notify(c.ring), load32(register(c.ring.dev, 0x70)))
			attack{devices: everyDevice(t), code: [][]byte{code}, ram: ram, breaks: true}.run(t)
		})
	}
}

// descFeature is VIRTIO_F_INDIRECT_DESC.
const descFeature = 1 << 28

// noisy is a guest that brings devices up and then writes noise to their registers, rings and buffers,
// from two vCPUs.
func noisy(t *testing.T) attack {
	var code []byte
	for dev := range hostileDevices {
		rings := []ring{hostileRing(dev, 0), hostileRing(dev, 1), hostileRing(dev, 2)}
		code = slices.Concat(code, drive(dev, descFeature, rings...))
	}
	noise := repeat(200,
		random, randomAddr(hostileQueues, 0x3fffc), storeRandom,
		random, randomAddr(hostileBuffers, 0xffffc), storeRandom,
		random, randomAddr(register(0, 0), 0x7fff), storeRandom,
	)
	for dev := range hostileDevices {
		for q := range 3 {
			code = slices.Concat(code, notify(hostileRing(dev, q)))
		}
	}
	code = slices.Concat(code, noise)
	ram := memory{}
	for dev := range hostileDevices {
		for q := range 3 {
			ram.fill(hostileRing(dev, q), 5, func(i int) descriptor {
				return descriptor{addr: hostileBuffers + 256*uint64(i), len: 64, flags: uint16(i) & 3, next: uint16(i + 1)}
			})
		}
	}
	return attack{devices: everyDevice(t), code: [][]byte{code, code}, ram: ram, breaks: true}
}

func TestHostileNoise(t *testing.T) { noisy(t).run(t) }
