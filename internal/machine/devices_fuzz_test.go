package machine

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/balloon"
	"github.com/aethervm/aether/internal/virtio/blk"
	"github.com/aethervm/aether/internal/virtio/mmio"
	"github.com/aethervm/aether/internal/virtio/net"
	"github.com/aethervm/aether/internal/virtio/queue"
	"github.com/aethervm/aether/internal/virtio/rng"
	"github.com/aethervm/aether/internal/virtio/virtiotest"
	"github.com/aethervm/aether/internal/virtio/vsock"
)

// fuzzMachine is a machine without processors: the bus with all kinds of device on it, and the guest's
// memory, in which each queue has a place.
type fuzzMachine struct {
	t          *testing.T
	mem        *guestmem.Memory
	bus        bus
	transports []*mmio.Transport
	card       *net.Device
	balloon    *balloon.Device
	vsock      *vsock.Device
	avail      [fuzzDevices][4]uint16
	closers    sync.WaitGroup
}

const (
	fuzzDevices   = 5
	fuzzMemory    = 1 << 20
	fuzzQueueSize = 8
	fuzzBuffers   = 0x40000
	fuzzStep      = 8 // bytes of the script
	fuzzSteps     = 64
)

// fuzzQueue is where a queue's areas are: the descriptor table, and the rings after it.
func fuzzQueue(dev, q int) uint64 { return uint64(dev*4+q)*0x1000 + 0x1000 }

// fuzzWire is a network without anybody.
type fuzzWire struct{ t *testing.T }

func (w fuzzWire) Send(frame []byte) {
	if len(frame) < 14 || len(frame) > net.MTU+18 {
		w.t.Errorf("frame of %d bytes", len(frame))
	}
}

func newFuzzMachine(t *testing.T, mem *guestmem.Memory, image *os.File) *fuzzMachine {
	m := &fuzzMachine{t: t, mem: mem}
	disk, err := blk.New(blk.Config{Image: image, ID: "disk"})
	if err != nil {
		t.Fatal(err)
	}
	m.card = net.New([6]byte{2}, fuzzWire{t})
	m.balloon = balloon.New(func(r guestmem.Range) error {
		if r.Size == 0 || (r.GPA|r.Size)%guestmem.PageSize != 0 || r.End() > fuzzMemory || r.GPA >= r.End() {
			t.Errorf("discard %+v", r)
		}
		return nil
	})
	if m.vsock, err = vsock.New(3); err != nil {
		t.Fatal(err)
	}
	if _, err := m.vsock.Listen(80); err != nil {
		t.Fatal(err)
	}
	m.bus.ioapic = newIOAPIC(func(msi kvm.MSI) {
		if msi.Address&^uint64(0xff<<msiDestination|msiLogical) != msiAddress || msi.Data&^(entryVector|entryDelivery) != 0 {
			t.Errorf("message %+v", msi)
		}
	})
	m.bus.serial = newSerial(&console{}, func() { m.bus.ioapic.pulse(boot.SerialGSI) })
	for i, d := range []virtio.Device{disk, rng.New(), m.balloon, m.card, m.vsock} {
		gsi := boot.DeviceAt(i).GSI
		transport, err := mmio.New(mmio.Config{
			Device: virtiotest.Tired(d), Memory: mem,
			Interrupt: func(bool) { m.bus.ioapic.pulse(gsi) },
			Stopped: func(err error) {
				if !errors.Is(err, queue.ErrMalformed) {
					t.Errorf("untyped error: %v", err)
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		m.transports = append(m.transports, transport)
		m.bus.devices = append(m.bus.devices, transport)
	}
	return m
}

func (m *fuzzMachine) write32(dev int, reg uint64, v uint32) {
	a := kvm.MMIO{Addr: boot.DeviceAt(dev).Registers.GPA + reg, Write: true, Len: 4}
	binary.LittleEndian.PutUint32(a.Data[:], v)
	m.bus.mmio(&a)
}

// put writes guest memory, where there is some.
func (m *fuzzMachine) put(gpa uint64, p ...byte) { _ = m.mem.WriteAt(p, gpa) }

// start brings a device up, with features taken away, as an honest driver does.
func (m *fuzzMachine) start(dev int, without uint32) {
	for _, w := range []struct{ reg, v uint32 }{
		{0x70, 0}, {0x70, 1}, {0x70, 3}, {0x24, 1}, {0x20, 1}, {0x24, 0}, {0x20, 0x30000020 &^ without}, {0x70, 0xb},
	} {
		m.write32(dev, uint64(w.reg), w.v)
	}
	for q := range 3 {
		at := fuzzQueue(dev, q)
		m.put(at+0x200, make([]byte, 0x400)...)
		m.avail[dev][q] = 0
		for _, w := range []struct{ reg, v uint32 }{
			{0x30, uint32(q)}, {0x38, fuzzQueueSize}, {0x80, uint32(at)}, {0x90, uint32(at + 0x200)}, {0xa0, uint32(at + 0x400)}, {0x44, 1},
		} {
			m.write32(dev, uint64(w.reg), w.v)
		}
	}
	m.write32(dev, 0x70, 0xf)
}

// offer puts the head of a chain on the available ring.
func (m *fuzzMachine) offer(dev, q int, head byte) {
	at, idx := fuzzQueue(dev, q)+0x200, &m.avail[dev][q]
	m.put(at+4+2*uint64(*idx%fuzzQueueSize), head, 0)
	*idx++
	m.put(at+2, byte(*idx), byte(*idx>>8))
}

// step does what one step of the script says. The guest's steps come first, then the host's.
func (m *fuzzMachine) step(s []byte) {
	dev, q := int(s[1])%fuzzDevices, int(s[1])/fuzzDevices%4
	v := binary.LittleEndian.Uint32(s[4:])
	switch s[0] % 12 {
	case 0: // a register
		m.write32(dev, uint64(s[2])<<2, v)
	case 1: // any address, any width
		bases := []uint64{boot.DeviceAddr, boot.IOAPICAddr, boot.DeviceAddr + fuzzDevices*boot.DeviceSize, 0, 1<<64 - 8}
		a := kvm.MMIO{Addr: bases[int(s[1])%len(bases)] + uint64(v), Write: s[2]&1 != 0, Len: uint32(s[2]>>1) % 9}
		copy(a.Data[:], s[3:])
		if got := m.bus.mmio(&a); a.Write != (got == nil) || !a.Write && len(got) != int(a.Len) {
			m.t.Errorf("%+v gave %d bytes", a, len(got))
		}
	case 2: // a port
		data := make([]byte, int(s[3]))
		io := kvm.IO{Out: s[2]&1 != 0, Port: uint16(v), Size: 1 << (s[2] >> 1 & 3), Data: data}
		if s[2]&8 != 0 {
			io.Port = boot.SerialPort + uint16(v%serialPorts)
		}
		copy(data, s[4:])
		m.bus.port(&io)
	case 3:
		m.start(dev, v)
	case 4: // a descriptor, its buffer anywhere in a small part of memory
		n := uint16(s[6]) << (s[7] & 7)
		var b [16]byte
		binary.LittleEndian.PutUint64(b[:], fuzzBuffers+uint64(s[4])<<(s[5]&15))
		binary.LittleEndian.PutUint32(b[8:], uint32(n))
		b[12], b[14] = s[3]&7, s[3]>>4
		m.put(fuzzQueue(dev, q)+16*uint64(s[2]%fuzzQueueSize), b[:]...)
	case 5:
		m.offer(dev, q, s[2])
		m.write32(dev, mmio.NotifyOffset, uint32(q))
	case 6: // content of buffers
		m.put(fuzzBuffers+uint64(binary.LittleEndian.Uint16(s[1:])), s[3:]...)
	case 7: // memory, the rings too
		m.put(uint64(binary.LittleEndian.Uint32(s[1:])&(fuzzMemory-1)), s[4:]...)
	case 8:
		m.pause(v)
	case 9:
		m.card.Deliver(make([]byte, v%2048))
		m.balloon.SetTarget(v)
	case 10: // a connection that nobody waits for
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if c, err := m.vsock.Dial(ctx, v&3); err == nil {
			_ = c.Close()
		}
	case 11: // a vCPU notifies while another does
		m.closers.Go(func() { m.write32(dev, mmio.NotifyOffset, uint32(q)) })
	}
}

// pause pauses all devices; they then leave memory alone, whatever is done to their registers.
func (m *fuzzMachine) pause(v uint32) {
	m.closers.Wait()
	for i, d := range m.transports {
		d.Pause()
		if _, err := d.State(); err != nil {
			m.t.Errorf("state of device %d: %v", i, err)
		}
	}
	var before, after [fuzzDevices * 0x4000]byte
	_ = m.mem.ReadAt(before[:], 0x1000)
	for i := range m.transports {
		m.write32(i, mmio.NotifyOffset, v%4)
	}
	m.balloon.SetTarget(v)
	m.card.Deliver(make([]byte, 60))
	if _ = m.mem.ReadAt(after[:], 0x1000); before != after {
		m.t.Error("a paused device has written to memory")
	}
	for _, d := range m.transports {
		d.Resume()
	}
}

// FuzzDevices is a guest with all kinds of device that accesses anything: registers, ports, rings,
// buffers, in any order and from two vCPUs, while the host uses the devices.
func FuzzDevices(f *testing.F) {
	mem, err := guestmem.New(fuzzMemory, guestmem.Options{})
	if err != nil {
		f.Fatal(err)
	}
	name := filepath.Join(f.TempDir(), "disk")
	if err := os.WriteFile(name, make([]byte, 64<<10), 0o600); err != nil {
		f.Fatal(err)
	}
	image, err := os.Open(name)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		_ = image.Close()
		_ = mem.Close()
	})
	join := func(steps ...[]byte) (b []byte) {
		for _, s := range steps {
			b = append(b, append(s, make([]byte, fuzzStep-len(s))...)...)
		}
		return b
	}
	// Of each device, a request on each of its queues: two buffers to read, one to write.
	for dev := range byte(fuzzDevices) {
		script := [][]byte{{3, dev}, {6, 0, 0, 1}, {6, 16, 0, 3, 0, 0, 0, 0}}
		for q := range byte(3) {
			i := dev + q*fuzzDevices
			script = append(script,
				[]byte{4, i, 0, 1 | 1<<4, 0, 0, 16, 0}, []byte{4, i, 1, 1 | 2<<4, 1, 4, 44, 0},
				[]byte{4, i, 2, 2, 16, 4, 128, 3}, []byte{5, i, 0}, []byte{11, i})
		}
		script = append(script, []byte{8, 0, 0, 0, 1}, []byte{9, 0, 0, 0, 60}, []byte{10}, []byte{0, dev, 0x1c})
		f.Add(join(script...))
	}
	f.Add(join([]byte{1, 1, 9, 0, 0x10, 0, 0, 0}, []byte{1, 1, 8, 0, 0x10}, []byte{2, 0, 9, 20, 'x'}, []byte{2, 0, 8, 20, 2}))
	f.Fuzz(func(t *testing.T, script []byte) {
		if err := mem.WriteAt(make([]byte, fuzzDevices*0x4000), 0x1000); err != nil {
			t.Fatal(err)
		}
		m := newFuzzMachine(t, mem, image)
		defer m.vsock.Close()
		for range min(len(script)/fuzzStep, fuzzSteps) {
			m.step(script[:fuzzStep])
			script = script[fuzzStep:]
		}
		m.closers.Wait()
		m.pause(0)
	})
}
