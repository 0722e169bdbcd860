package boot

import (
	"encoding/binary"
	"testing"
)

func TestEntryState(t *testing.T) {
	c := entryState(0x1234)
	// The 64-bit boot protocol's demands, one by one.
	if c.RIP != 0x1234 || c.RSI != paramsAddr || c.RFLAGS&(1<<9) != 0 {
		t.Errorf("RIP %#x, RSI %#x, RFLAGS %#x", c.RIP, c.RSI, c.RFLAGS)
	}
	if c.CS.Selector != 0x10 || !c.CS.L || c.CS.DB {
		t.Errorf("CS %+v", c.CS)
	}
	for name, s := range map[string]Segment{"DS": c.DS, "ES": c.ES, "SS": c.SS} {
		if s.Selector != 0x18 || s.Base != 0 || s.Limit != 0xffffffff {
			t.Errorf("%s %+v", name, s)
		}
	}
	if c.CR0&(1<<31|1) != 1<<31|1 || c.CR4 != 1<<5 || c.EFER != 1<<8|1<<10 || c.CR3 != pageTablesAddr {
		t.Errorf("CR0 %#x, CR3 %#x, CR4 %#x, EFER %#x", c.CR0, c.CR3, c.CR4, c.EFER)
	}
	if c.RSP%16 != 0 || c.RSP <= stackAddr || c.RSP > stackAddr+stackSize {
		t.Errorf("RSP %#x", c.RSP)
	}
	table := c.gdt()
	for selector, want := range map[int]uint64{
		0x00: 0,
		0x08: 0,
		0x10: 0x00af9b000000ffff, // flat 64-bit code
		0x18: 0x00cf93000000ffff, // flat data
		0x20: 0x00008b0000000067, // busy 64-bit TSS
		0x28: 0,
	} {
		if got := binary.LittleEndian.Uint64(table[selector:]); got != want {
			t.Errorf("descriptor %#x is %#016x, want %#016x", selector, got, want)
		}
	}
	if len(table) != int(c.GDT.Limit)+1 || len(table) > gdtSize {
		t.Errorf("GDT of %d bytes, limit %#x", len(table), c.GDT.Limit)
	}
}

func TestDescriptor(t *testing.T) {
	s := Segment{Base: 0x89abcdef, Limit: 0xabcde, Type: 5, DPL: 3, Present: true, AVL: true}
	if got, want := s.descriptor(), uint64(0x891ae5abcdefbcde); got != want {
		t.Errorf("descriptor %#016x, want %#016x", got, want)
	}
}

// walk translates an address as a processor does.
func walk(t *testing.T, tables []byte, addr uint64) (uint64, bool) {
	t.Helper()
	table := uint64(pageTablesAddr)
	for shift := 39; ; shift -= 9 {
		index := addr >> shift & 511
		e := binary.LittleEndian.Uint64(tables[table-pageTablesAddr+index*8:])
		if e&pagePresent == 0 {
			return 0, false
		}
		if e&pageWritable == 0 {
			t.Fatalf("%#x is not writable", addr)
		}
		if e&pageHuge != 0 {
			mask := uint64(1)<<shift - 1
			return e&^(mask|0xfff) | addr&mask, true
		}
		table = e &^ 0xfff
	}
}

func TestPageTables(t *testing.T) {
	tables := pageTables()
	if len(tables) != pageTablesSize {
		t.Fatalf("%d bytes", len(tables))
	}
	for addr := uint64(0); addr < 4<<30; addr += 1<<20 - 1 {
		if got, ok := walk(t, tables, addr); !ok || got != addr {
			t.Fatalf("%#x is mapped to %#x, %v", addr, got, ok)
		}
	}
	for _, addr := range []uint64{4 << 30, 512 << 30, 1 << 47} {
		if got, ok := walk(t, tables, addr); ok {
			t.Errorf("%#x is mapped to %#x", addr, got)
		}
	}
}
