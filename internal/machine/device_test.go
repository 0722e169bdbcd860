package machine

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/kvm"
)

// testIOAPIC collects the messages that an IOAPIC sends.
func testIOAPIC() (*ioapic, *[]kvm.MSI) {
	var sent []kvm.MSI
	return newIOAPIC(func(m kvm.MSI) { sent = append(sent, m) }), &sent
}

func (a *ioapic) testRead(reg byte) uint32 {
	var b [4]byte
	a.Write(ioapicSelect, []byte{reg, 0, 0, 0})
	a.Read(ioapicWindow, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

func (a *ioapic) testWrite(reg byte, v uint32) {
	a.Write(ioapicSelect, []byte{reg, 0, 0, 0})
	a.Write(ioapicWindow, binary.LittleEndian.AppendUint32(nil, v))
}

func TestIOAPIC(t *testing.T) {
	a, sent := testIOAPIC()
	if v := a.testRead(ioapicVersion); v != 0x00170011 {
		t.Errorf("version %#x", v)
	}
	const pin, low, high = 6, ioapicEntries + 12, ioapicEntries + 13
	if v := a.testRead(low); v != entryMasked {
		t.Errorf("an entry is %#x at first", v)
	}
	a.pulse(pin)
	a.pulse(pin)
	a.testWrite(high, 2<<24)
	a.testWrite(low, entryMasked|0x31)
	if len(*sent) != 0 {
		t.Fatalf("a masked pin sent %+v", *sent)
	}
	a.testWrite(low, entryReadOnly|1<<8|0x31) // lowest priority, physical
	want := kvm.MSI{Address: 0xfee02000, Data: 0x131}
	if !slices.Equal(*sent, []kvm.MSI{want}) {
		t.Fatalf("sent %+v, want one %+v", *sent, want)
	}
	if l, h := a.testRead(low), a.testRead(high); l != 0x131 || h != 2<<24 {
		t.Errorf("the entry reads %#x, %#x", l, h)
	}
	a.testWrite(low, entryLogical|0x32)
	a.pulse(pin)
	want = kvm.MSI{Address: 0xfee02004, Data: 0x32}
	if len(*sent) != 2 || (*sent)[1] != want {
		t.Errorf("sent %+v, want %+v", *sent, want)
	}
	a.pulse(boot.IOAPICPins) // there is none
	a.testWrite(ioapicID, 0xffffffff)
	if v := a.testRead(ioapicID); v != ioapicIDMask {
		t.Errorf("ID %#x", v)
	}
}

func TestSerial(t *testing.T) {
	var out bytes.Buffer
	interrupts := 0
	s := newSerial(&out, func() { interrupts++ })
	s.write(serialData, 'a')
	if interrupts != 0 || s.read(serialIIR) != iirNone {
		t.Error("an interrupt that is not enabled")
	}
	s.write(serialIER, ierEmpty)
	if interrupts != 1 || s.read(serialIIR) != iirEmpty || s.read(serialIIR) != iirNone {
		t.Errorf("%d interrupts after enabling", interrupts)
	}
	s.write(serialData, 'b')
	if interrupts != 2 || s.read(serialIIR) != iirEmpty {
		t.Errorf("%d interrupts after a byte", interrupts)
	}
	// The divisor hides the data and the interrupt enable register.
	s.write(serialLCR, lcrDivisor|3)
	s.write(serialData, 1)
	s.write(serialIER, 2)
	if s.read(serialData) != 1 || s.read(serialIER) != 2 || interrupts != 2 {
		t.Error("the divisor is not kept")
	}
	s.write(serialLCR, 3)
	if s.read(serialIER) != ierEmpty || s.read(serialLCR) != 3 {
		t.Error("the divisor has overwritten registers")
	}
	// How Linux finds out that this is a 16550A: the loopback, the scratch register, the FIFO.
	s.write(serialMCR, mcrLoopback|0xa)
	if s.read(serialMSR) != 0x90 {
		t.Errorf("modem status %#x in loopback", s.read(serialMSR))
	}
	for range 2 * serialFIFO {
		s.write(serialData, 'x')
	}
	n := 0
	for ; s.read(serialLSR)&lsrData != 0; n++ {
		s.read(serialData)
	}
	s.write(serialMCR, 0)
	if n != serialFIFO || out.String() != "ab" {
		t.Errorf("%d bytes came back, %q went out", n, &out)
	}
	s.write(serialIIR, fcrFIFO)
	if s.read(serialIIR)&iirFIFO != iirFIFO {
		t.Error("no FIFO")
	}
	s.write(serialUnused, 0x5a)
	if s.read(serialUnused) != 0x5a || s.read(serialLSR) != lsrEmpty || s.read(serialMSR) != msrConnected {
		t.Error("scratch or status registers")
	}
}

func TestConsoleKeepsTheEnd(t *testing.T) {
	var c console
	var all []byte
	for i := range 5000 {
		p := bytes.Repeat([]byte{byte(i)}, i%23)
		all = append(all, p...)
		if n, err := c.Write(p); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
		if want := all[max(0, len(all)-consoleTail):]; i%100 == 0 && !bytes.Equal(c.tail(), want) {
			t.Fatalf("after %d writes: %d bytes, want %d", i, len(c.tail()), len(want))
		}
	}
	long := bytes.Repeat([]byte("0123456789"), consoleTail)
	c.keep(long)
	if !bytes.Equal(c.tail(), long[len(long)-consoleTail:]) {
		t.Error("a long write")
	}
}

// FuzzBus has a guest access anything, with any width.
func FuzzBus(f *testing.F) {
	f.Add([]byte{1, 0x10, 0, 0xc0, 0xfe, 4, 0xff, 0xff, 0xfe, 0xff})
	f.Add([]byte{2, 0xf8, 3, 0, 0, 1, 'x', 0, 0, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		a, _ := testIOAPIC()
		device := &recorder{}
		b := bus{ioapic: a, serial: newSerial(&console{}, func() { a.pulse(boot.SerialGSI) }), devices: []window{device, device}}
		for ; len(script) >= 10; script = script[10:] {
			addr, n, write := uint64(binary.LittleEndian.Uint32(script[1:])), script[5], script[0]&1 != 0
			if script[0]&2 == 0 {
				access := kvm.MMIO{Addr: addr, Write: write, Len: uint32(n % 9)}
				copy(access.Data[:], script[6:])
				if got := b.mmio(&access); write && got != nil || !write && len(got) != int(access.Len) {
					t.Fatalf("%+v gave %d bytes", access, len(got))
				}
			} else {
				data := bytes.Repeat(script[6:10], 16)
				b.port(&kvm.IO{Out: write, Port: uint16(addr), Size: n, Data: data[:int(n)%len(data)]})
			}
		}
		if device.outside {
			t.Fatal("a device saw an access outside its window")
		}
	})
}

type recorder struct{ outside bool }

func (r *recorder) Read(off uint64, _ []byte)  { r.outside = r.outside || off >= boot.DeviceSize }
func (r *recorder) Write(off uint64, _ []byte) { r.outside = r.outside || off >= boot.DeviceSize }

func TestGuestCPUID(t *testing.T) {
	supported := []kvm.CPUIDEntry{
		{Function: leafFeatures, EBX: 0xff_ff_08_00, EDX: featureThreads},
		{Function: leafCache, Index: 0, EAX: 0xffffffff&^0xe0 | 1<<5},
		{Function: leafCache, Index: 3, EAX: 0xffffffff&^0xe0 | 3<<5},
		{Function: leafPerformance, EAX: 1},
		{Function: leafKVM, EAX: 0xffffffff},
		{Function: leafTopology, EAX: 9},
		{Function: leafTopologyV2, EAX: 9},
		{Function: leafAMDSizes, EAX: 0x3028, ECX: 0x70ff},
		{Function: leafAMDTopology, EAX: 99, EBX: 99, ECX: 99},
	}
	find := func(entries []kvm.CPUIDEntry, leaf, index uint32) kvm.CPUIDEntry {
		t.Helper()
		var found []kvm.CPUIDEntry
		for _, e := range entries {
			if e.Function == leaf && e.Index == index {
				found = append(found, e)
			}
		}
		if len(found) != 1 {
			t.Fatalf("leaf %#x.%d is there %d times", leaf, index, len(found))
		}
		return found[0]
	}
	out := guestCPUID(supported, 2, 3)
	if e := find(out, leafFeatures, 0); e.EBX != 2<<24|4<<16|0x0800 || e.ECX != featureTSCDeadline|featureHypervisor || e.EDX != featureThreads {
		t.Errorf("features %+v", e)
	}
	if e := find(out, leafCache, 0); e.EAX>>14&0xfff != 0 || e.EAX>>26 != 3 {
		t.Errorf("first-level cache %#x", e.EAX)
	}
	if e := find(out, leafCache, 3); e.EAX>>14&0xfff != 2 {
		t.Errorf("third-level cache %#x", e.EAX)
	}
	if e := find(out, leafPerformance, 0); e.EAX != 0 {
		t.Errorf("performance counters %+v", e)
	}
	if e := find(out, leafKVM, 0); e.EAX != ^uint32(featureAsyncPF) {
		t.Errorf("features of KVM %#x", e.EAX)
	}
	if e := find(out, leafTopology, 0); e.EAX != 0 || e.EBX != 1 || e.EDX != 2 {
		t.Errorf("threads %+v", e)
	}
	if e := find(out, leafTopology, 1); e.EAX != 2 || e.EBX != 3 || e.EDX != 2 {
		t.Errorf("cores %+v", e)
	}
	if e := find(out, leafAMDSizes, 0); e.EAX != 0x3028 || e.ECX != 2<<12|2 {
		t.Errorf("AMD sizes %+v", e)
	}
	if e := find(out, leafAMDTopology, 0); e.EAX != 2 || e.EBX != 2 || e.ECX != 0 {
		t.Errorf("AMD topology %+v", e)
	}
	if e := find(guestCPUID(supported, 0, 1), leafFeatures, 0); e.EDX != 0 || e.EBX != 1<<16|0x0800 {
		t.Errorf("features of one vCPU %+v", e)
	}
}

// The ID is in memory, and its interrupt waits for a guest that has not unmasked it yet.
func TestGenerationID(t *testing.T) {
	m, mem := start(t, Config{}, count...)
	id := [16]byte{1, 2, 3, 15: 4}
	if err := m.SetGenerationID(id); err != nil {
		t.Fatal(err)
	}
	var got [16]byte
	if err := mem.ReadAt(got[:], boot.GenerationIDAddr); err != nil || got != id {
		t.Errorf("%v, %v", got, err)
	}
	m.bus.ioapic.mu.Lock()
	pending := m.bus.ioapic.pending[boot.GenerationGSI]
	m.bus.ioapic.mu.Unlock()
	if !pending {
		t.Error("the interrupt was not raised")
	}
	waitCounting(t, mem)
}
