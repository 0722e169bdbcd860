package boot

import "encoding/binary"

// Segment is a segment register with its cached descriptor.
type Segment struct {
	Base     uint64
	Limit    uint32
	Selector uint16
	Type     uint8 // of the descriptor, 4 bits
	DPL      uint8
	// The descriptor's flags: S is set for code and data, L for 64-bit code.
	Present, DB, S, L, G, AVL bool
	// Unusable marks a register that holds no segment.
	Unusable bool
}

// Table is a descriptor table register.
type Table struct {
	Base  uint64
	Limit uint16
}

// CPU is the state of the boot processor before its first instruction, in 64-bit mode as the boot
// protocol demands it. General-purpose registers and fields that are not named are zero. Other
// processors wait for the start-up interrupt, as after a reset.
type CPU struct {
	RIP, RSP, RSI, RFLAGS  uint64
	CR0, CR3, CR4, EFER    uint64
	CS, DS, ES, FS, GS, SS Segment
	TR, LDT                Segment
	GDT, IDT               Table
}

// Selectors that the boot protocol demands (__BOOT_CS, __BOOT_DS), and the one after them.
const (
	selectorCode = 0x10
	selectorData = 0x18
	selectorTSS  = 0x20
)

const (
	cr0PE = 1 << 0 // protected mode
	cr0MP = 1 << 1
	cr0ET = 1 << 4 // always set
	cr0NE = 1 << 5 // always set under VMX
	cr0WP = 1 << 16
	cr0PG = 1 << 31 // paging

	cr4PAE = 1 << 5

	eferLME = 1 << 8 // long mode enabled
	eferLMA = 1 << 10

	rflagsFixed = 1 << 1 // interrupts are off
)

// Types of descriptors.
const (
	typeData = 0x3 // read, write, accessed
	typeCode = 0xb // execute, read, accessed
	typeTSS  = 0xb // 64-bit, busy: what VMX demands of TR
)

func entryState(entry uint64) CPU {
	flat := Segment{Limit: 0xffffffff, Present: true, S: true, G: true}
	code, data := flat, flat
	code.Selector, code.Type, code.L = selectorCode, typeCode, true
	data.Selector, data.Type, data.DB = selectorData, typeData, true
	return CPU{
		RIP:    entry,
		RSP:    stackAddr + stackSize,
		RSI:    paramsAddr,
		RFLAGS: rflagsFixed,
		CR0:    cr0PE | cr0MP | cr0ET | cr0NE | cr0WP | cr0PG,
		CR3:    pageTablesAddr,
		CR4:    cr4PAE,
		EFER:   eferLME | eferLMA,
		CS:     code,
		DS:     data, ES: data, FS: data, GS: data, SS: data,
		// No task is ever switched to, so the segment's content, the zeros at address 0, is not used.
		TR:  Segment{Selector: selectorTSS, Type: typeTSS, Limit: 0x67, Present: true},
		LDT: Segment{Unusable: true},
		GDT: Table{Base: gdtAddr, Limit: selectorTSS + 16 - 1},
		// Without interrupt handlers every exception ends in a triple fault, which stops the VM.
		IDT: Table{},
	}
}

// descriptor encodes a segment as it is in a descriptor table.
func (s Segment) descriptor() uint64 {
	limit := uint64(s.Limit)
	if s.G {
		limit >>= 12 // in pages
	}
	flag := func(set bool, bit int) uint64 {
		if set {
			return 1 << bit
		}
		return 0
	}
	return limit&0xffff | s.Base&0xffffff<<16 | uint64(s.Type&0xf)<<40 | flag(s.S, 44) |
		uint64(s.DPL&3)<<45 | flag(s.Present, 47) | limit>>16&0xf<<48 | flag(s.AVL, 52) |
		flag(s.L, 53) | flag(s.DB, 54) | flag(s.G, 55) | s.Base>>24&0xff<<56
}

// gdt is the table that the segments of the state are in.
func (c *CPU) gdt() []byte {
	table := make([]byte, int(c.GDT.Limit)+1)
	for _, s := range []Segment{c.CS, c.DS, c.TR} {
		binary.LittleEndian.PutUint64(table[s.Selector:], s.descriptor())
	}
	// System descriptors are 16 bytes long in 64-bit mode; the second half has the base's upper part.
	binary.LittleEndian.PutUint64(table[c.TR.Selector+8:], c.TR.Base>>32)
	return table
}

const (
	pagePresent  = 1 << 0
	pageWritable = 1 << 1
	pageHuge     = 1 << 7
	entries      = 512
)

// pageTables maps the first 4 GiB to themselves: one top level, one level of 1 GiB entries, and four
// tables of 2 MiB pages, which every processor has.
func pageTables() []byte {
	tables := make([]byte, pageTablesSize)
	put := func(page, index int, v uint64) {
		binary.LittleEndian.PutUint64(tables[page*0x1000+index*8:], v)
	}
	const link = pagePresent | pageWritable
	put(0, 0, pageTablesAddr+0x1000|link)
	for g := range 4 {
		put(1, g, uint64(pageTablesAddr+(2+g)*0x1000)|link)
		for i := range entries {
			put(2+g, i, uint64(g*entries+i)<<21|link|pageHuge)
		}
	}
	return tables
}
