package machine

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/guestmem"
)

// Where a hostile micro-guest has its code, one piece a vCPU, its counters, and its queues.
const (
	hostileCode     = microCode
	hostileCodeSize = 0x1c00
	hostileQueues   = 0x80000
	hostileBuffers  = 0x100000
	hostileSize     = 64 // descriptors of a queue, or fewer if the device has fewer
)

func imm32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

// Pieces of code, which use edi and eax.

func setAddr(addr uint32) []byte { return append([]byte{0xbf}, imm32(addr)...) } // mov edi, addr

func store32(addr, v uint32) []byte {
	return slices.Concat(setAddr(addr), []byte{0xc7, 0x07}, imm32(v)) // mov dword [rdi], v
}

func load32(addr uint32) []byte { return append(setAddr(addr), 0x8b, 0x07) } // mov eax, [rdi]

// increment counts in RAM.
func increment(addr uint32) []byte { return append([]byte{0xff, 0x04, 0x25}, imm32(addr)...) }

func forever(code ...[]byte) []byte {
	body := slices.Concat(code...)
	return slices.Concat(body, []byte{0xe9}, imm32(uint32(-len(body)-5))) // jmp to the start
}

// repeat does code n times, with ebx as the counter.
func repeat(n uint32, code ...[]byte) []byte {
	body := slices.Concat(code...)
	return slices.Concat([]byte{0xbb}, imm32(n), body, // mov ebx, n
		[]byte{0xff, 0xcb, 0x0f, 0x85}, imm32(uint32(-len(body)-8))) // dec ebx; jnz to the body
}

// random makes a pseudo-random number in ecx from the one before.
var random = slices.Concat([]byte{0x69, 0xc9}, imm32(1664525), []byte{0x81, 0xc1}, imm32(1013904223)) // imul ecx, ecx, a; add ecx, c

// randomAddr puts into edi an address that is base and some bits of ecx.
func randomAddr(base, mask uint32) []byte {
	return slices.Concat([]byte{0x89, 0xcf, 0xc1, 0xef, 8}, // mov edi, ecx; shr edi, 8
		[]byte{0x81, 0xe7}, imm32(mask), []byte{0x81, 0xc7}, imm32(base)) // and edi, mask; add edi, base
}

var storeRandom = []byte{0x89, 0x0f} // mov [rdi], ecx

// rounds is where a vCPU counts.
func rounds(vcpu int) uint32 { return microData + 64*uint32(vcpu) }

// ring is a queue of a micro-guest.
type ring struct {
	dev, index, size int
}

func (r ring) desc() uint32  { return hostileQueues + uint32(r.dev)*0x8000 + uint32(r.index)*0x2000 }
func (r ring) avail() uint32 { return r.desc() + 0x800 }
func (r ring) used() uint32  { return r.desc() + 0x1000 }

func register(dev int, reg uint32) uint32 { return uint32(boot.DeviceAt(dev).Registers.GPA) + reg }

// drive is a driver that brings a device up with the given queues.
func drive(dev int, features uint32, rings ...ring) []byte {
	var code []byte
	put := func(reg, v uint32) { code = append(code, store32(register(dev, reg), v)...) }
	for _, w := range [][2]uint32{{0x70, 0}, {0x70, 1}, {0x70, 3}, {0x24, 1}, {0x20, 1}, {0x24, 0}, {0x20, features}, {0x70, 0xb}} {
		put(w[0], w[1])
	}
	for _, r := range rings {
		put(0x30, uint32(r.index))
		put(0x38, uint32(r.size))
		put(0x80, r.desc())
		put(0x90, r.avail())
		put(0xa0, r.used())
		put(0x44, 1)
	}
	put(0x70, 0xf)
	return code
}

func notify(r ring) []byte { return store32(register(r.dev, 0x50), uint32(r.index)) }

// refill offers all descriptors of a ring again that the device has used.
func refill(r ring) []byte {
	return slices.Concat(
		[]byte{0x0f, 0xb7, 0x04, 0x25}, imm32(r.used()+2), // movzx eax, word [used index]
		[]byte{0x05}, imm32(uint32(r.size)), // add eax, size
		[]byte{0x66, 0x89, 0x04, 0x25}, imm32(r.avail()+2)) // mov [available index], ax
}

// descriptor is an entry of a ring's table.
type descriptor struct {
	addr        uint64
	len         uint32
	flags, next uint16
}

const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

func (d descriptor) bytes() []byte {
	b := binary.LittleEndian.AppendUint64(nil, d.addr)
	b = binary.LittleEndian.AppendUint32(b, d.len)
	b = binary.LittleEndian.AppendUint16(b, d.flags)
	return binary.LittleEndian.AppendUint16(b, d.next)
}

// memory is what a guest's RAM holds at first.
type memory map[uint64][]byte

// fill gives a ring descriptors, of which as many as it has are offered: the head with index i is i.
func (m memory) fill(r ring, offered int, d func(i int) descriptor) {
	var table []byte
	for i := range r.size {
		table = append(table, d(i).bytes()...)
	}
	heads := []byte{0, 0, byte(offered), byte(offered >> 8)}
	for i := range r.size {
		heads = binary.LittleEndian.AppendUint16(heads, uint16(i))
	}
	m[uint64(r.desc())], m[uint64(r.avail())] = table, heads
}

// prepare makes a machine whose vCPUs all run in ring 3 from the start, each its own code.
func prepare(t testing.TB, cfg Config, code [][]byte, ram memory) (*Machine, *guestmem.Memory) {
	t.Helper()
	cfg.System = openSystem(t)
	cfg.Memory = newMemory(t, microMemory)
	cfg.VCPUs = len(code)
	for i, c := range code {
		if len(c) > hostileCodeSize {
			t.Fatalf("code of %d bytes", len(c))
		}
		ram[hostileCode+hostileCodeSize*uint64(i)] = c
	}
	cpu := loadMicro(t, cfg.Memory)
	for gpa, b := range ram {
		if err := cfg.Memory.WriteAt(b, gpa); err != nil {
			t.Fatal(err)
		}
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := startAll(m, cpu); err != nil {
		t.Fatal(err)
	}
	return m, cfg.Memory
}

// startAll starts all vCPUs in the state of the boot processor, but for the code.
func startAll(m *Machine, cpu boot.CPU) error {
	const bootProcessor = 1 << 8 // in the local APIC's base address
	if err := setBootState(m.vcpus[0], cpu); err != nil {
		return err
	}
	s, err := m.vcpus[0].State(nil)
	if err != nil {
		return err
	}
	s.HasLAPIC = false // each keeps its own, with its ID
	s.Sregs.APICBase &^= bootProcessor
	for i, vcpu := range m.vcpus[1:] {
		s.Regs.RIP = hostileCode + hostileCodeSize*uint64(i+1)
		if err := vcpu.SetState(s); err != nil {
			return err
		}
	}
	return m.Start(cpu)
}
