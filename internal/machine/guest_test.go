package machine

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/testenv"
)

func TestMain(m *testing.M) { testMain(m) }

// Where a micro-guest's memory has what.
const (
	microMemory = 2 << 20
	microTables = 0x10000 // six pages
	microData   = 0x20000
	microCode   = 0x30000
	microStack  = 0x40000
	microTSS    = 0x50000
)

const endTimeout = time.Minute

func openSystem(t testing.TB) *kvm.System {
	t.Helper()
	s, err := kvm.Open()
	if err != nil {
		testenv.Require(t, "KVM", err.Error())
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func newMemory(t testing.TB, size uint64) *guestmem.Memory {
	t.Helper()
	mem, err := guestmem.New(size, guestmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mem.Close(); err != nil {
			t.Error(err)
		}
	})
	return mem
}

// loadMicro puts code into memory and returns the state in which it runs in ring 3, which every kind
// of KVM runs on the processor, with all of the first 4 GiB and all I/O ports open to it.
func loadMicro(t testing.TB, mem *guestmem.Memory, code ...byte) boot.CPU {
	t.Helper()
	const link, huge = 7, 0x87 // present, writable, for ring 3; and 2 MiB large
	tables := make([]byte, 6*guestmem.PageSize)
	put := func(page, index int, v uint64) {
		binary.LittleEndian.PutUint64(tables[page*guestmem.PageSize+8*index:], v)
	}
	put(0, 0, microTables+guestmem.PageSize|link)
	for g := range 4 {
		put(1, g, uint64(microTables+(2+g)*guestmem.PageSize)|link)
		for i := range 512 {
			put(2+g, i, uint64(g*512+i)<<21|huge)
		}
	}
	for gpa, b := range map[uint64][]byte{microTables: tables, microCode: code} {
		if err := mem.WriteAt(b, gpa); err != nil {
			t.Fatal(err)
		}
	}
	flat := boot.Segment{Limit: 0xffffffff, DPL: 3, Present: true, S: true, G: true}
	cs, ds := flat, flat
	cs.Selector, cs.Type, cs.L = 0x23, 0xb, true
	ds.Selector, ds.Type, ds.DB = 0x1b, 0x3, true
	return boot.CPU{
		RIP: microCode, RSP: microStack, RFLAGS: 1<<1 | 3<<12, // I/O privilege level 3
		CR0: 1<<31 | 1<<16 | 0x33, CR3: microTables, CR4: 1 << 5, EFER: 1<<8 | 1<<10,
		CS: cs, DS: ds, ES: ds, FS: ds, GS: ds, SS: ds,
		// Under PVM the privilege level for I/O does not count. Zeros in the task state segment open
		// all ports as well.
		TR:  boot.Segment{Base: microTSS, Selector: 0x28, Type: 0xb, Limit: 0x2fff, Present: true},
		LDT: boot.Segment{Unusable: true},
	}
}

// count counts in memory for ever.
var count = []byte{
	0xff, 0x04, 0x25, microData & 0xff, microData >> 8 & 0xff, microData >> 16, 0, // inc dword [microData]
	0xeb, 0xf7, // jmp back
}

// start runs code on a machine that is made of cfg; memory and system are added.
func start(t testing.TB, cfg Config, code ...byte) (*Machine, *guestmem.Memory) {
	t.Helper()
	cfg.System = openSystem(t)
	cfg.Memory = newMemory(t, microMemory)
	cfg.VCPUs = max(cfg.VCPUs, 1)
	cpu := loadMicro(t, cfg.Memory, code...)
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := m.Start(cpu); err != nil {
		t.Fatal(err)
	}
	return m, cfg.Memory
}

func wait(t testing.TB, m *Machine) End {
	t.Helper()
	select {
	case <-m.Done():
	case <-time.After(endTimeout):
		t.Fatalf("the machine has not ended; console:\n%s", m.Console())
	}
	end, err := m.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return end
}
