package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/aethervm/aether/internal/guestmem"
)

const (
	// maxKernel bounds a kernel in memory, its zeroed parts included, and unpacked as a file with
	// its symbols. Distributions' are below 80 MiB.
	maxKernel = 512 << 20
	// maxSegments bounds the program headers; Linux has five.
	maxSegments = 64
	maxNotes    = 64 << 10

	elfHeaderSize  = 64
	progHeaderSize = 56
)

// segment is a part of a kernel file and its place in guest memory.
type segment struct {
	src      Blob
	off      uint64
	fileSize uint64
	mem      guestmem.Range
}

// isELF tells whether a file starts like a vmlinux.
func isELF(b []byte) bool { return bytes.HasPrefix(b, []byte(elf.ELFMAG)) }

// openELF reads the program headers of a vmlinux. debug/elf is not used: it reads, and so has to
// trust, sections and symbols as well, which a loader does not need.
func openELF(b Blob) (*Kernel, error) {
	head, err := readRange(b, 0, elfHeaderSize, elfHeaderSize, "ELF header")
	if err != nil {
		return nil, err
	}
	var h elf.Header64
	if err := binary.Read(bytes.NewReader(head), binary.LittleEndian, &h); err != nil {
		return nil, fmt.Errorf("%w: ELF header: %w", ErrFormat, err)
	}
	switch {
	case !isELF(head):
		return nil, fmt.Errorf("%w: no ELF file", ErrFormat)
	case elf.Class(h.Ident[elf.EI_CLASS]) != elf.ELFCLASS64,
		elf.Data(h.Ident[elf.EI_DATA]) != elf.ELFDATA2LSB,
		elf.Machine(h.Machine) != elf.EM_X86_64,
		elf.Type(h.Type) != elf.ET_EXEC:
		return nil, fmt.Errorf("%w: not an x86-64 executable (%v, %v, %v)", ErrUnsupported,
			elf.Class(h.Ident[elf.EI_CLASS]), elf.Machine(h.Machine), elf.Type(h.Type))
	case h.Phentsize != progHeaderSize || h.Phnum == 0 || h.Phnum > maxSegments:
		return nil, fmt.Errorf("%w: %d program headers of %d bytes", ErrFormat, h.Phnum, h.Phentsize)
	}
	table, err := readRange(b, h.Phoff, uint64(h.Phnum)*progHeaderSize, maxSegments*progHeaderSize, "program headers")
	if err != nil {
		return nil, err
	}
	progs := make([]elf.Prog64, h.Phnum)
	if err := binary.Read(bytes.NewReader(table), binary.LittleEndian, progs); err != nil {
		return nil, fmt.Errorf("%w: program headers: %w", ErrFormat, err)
	}
	k := &Kernel{entry: h.Entry}
	for _, p := range progs {
		switch elf.ProgType(p.Type) {
		case elf.PT_LOAD:
			err = k.addSegment(b, p)
		case elf.PT_NOTE:
			err = k.readNotes(b, p)
		}
		if err != nil {
			return nil, err
		}
	}
	if !k.startsAt(k.entry) {
		return nil, fmt.Errorf("%w: entry point %#x is not in the file", ErrFormat, k.entry)
	}
	return k, nil
}

func (k *Kernel) addSegment(b Blob, p elf.Prog64) error {
	size := uint64(max(b.Size(), 0))
	switch {
	case p.Memsz == 0:
		return nil
	case p.Filesz > p.Memsz:
		return fmt.Errorf("%w: segment at %#x has %d bytes in the file and %d in memory", ErrFormat, p.Paddr, p.Filesz, p.Memsz)
	case p.Off > size || p.Filesz > size-p.Off:
		return fmt.Errorf("%w: segment of %d bytes at offset %#x exceeds the file of %d bytes", ErrFormat, p.Filesz, p.Off, size)
	case p.Paddr < highAddr || p.Paddr >= guestmem.HoleStart || p.Memsz > guestmem.HoleStart-p.Paddr:
		// Also what keeps a kernel from being loaded over the boot parameters and tables.
		return fmt.Errorf("%w: segment of %d bytes at %#x is not between %#x and %#x", ErrFormat, p.Memsz, p.Paddr, highAddr, guestmem.HoleStart)
	}
	s := segment{src: b, off: p.Off, fileSize: p.Filesz, mem: guestmem.Range{GPA: p.Paddr, Size: p.Memsz}}
	for _, o := range k.segments {
		if s.mem.GPA < o.mem.End() && o.mem.GPA < s.mem.End() {
			return fmt.Errorf("%w: segments at %#x and %#x overlap", ErrFormat, o.mem.GPA, s.mem.GPA)
		}
	}
	k.segments = append(k.segments, s)
	if k.span.Size == 0 {
		k.span = s.mem
	}
	start, end := min(k.span.GPA, s.mem.GPA), max(k.span.End(), s.mem.End())
	if end-start > maxKernel {
		return fmt.Errorf("%w: takes %d bytes of memory, more than %d", ErrFormat, end-start, maxKernel)
	}
	k.span = guestmem.Range{GPA: start, Size: end - start}
	return nil
}

// startsAt tells whether there is content of the file at an address.
func (k *Kernel) startsAt(gpa uint64) bool {
	for _, s := range k.segments {
		if gpa >= s.mem.GPA && gpa-s.mem.GPA < s.fileSize {
			return true
		}
	}
	return false
}

// xenPhys32Entry is the type of the note with the 32-bit entry point of PVH.
const xenPhys32Entry = 18

// readNotes looks for the PVH entry point. Notes are optional, so that odd ones are passed over, but
// not ones that point out of the file.
func (k *Kernel) readNotes(b Blob, p elf.Prog64) error {
	data, err := readRange(b, p.Off, p.Filesz, maxNotes, "notes")
	if err != nil {
		return err
	}
	for {
		var n struct{ NameSize, DescSize, Type uint32 }
		r := bytes.NewReader(data)
		if binary.Read(r, binary.LittleEndian, &n) != nil {
			return nil
		}
		data = data[len(data)-r.Len():]
		name, rest, ok := cutPadded(data, n.NameSize)
		if !ok {
			return nil
		}
		desc, rest, ok := cutPadded(rest, n.DescSize)
		if !ok {
			return nil
		}
		if string(name) == "Xen\x00" && n.Type == xenPhys32Entry && len(desc) >= 4 {
			k.pvh = binary.LittleEndian.Uint32(desc)
			return nil
		}
		data = rest
	}
}

// cutPadded splits off n bytes and the padding after them.
func cutPadded(data []byte, n uint32) (field, rest []byte, ok bool) {
	padded := (uint64(n) + 3) &^ 3
	if uint64(n) > uint64(len(data)) {
		return nil, nil, false
	}
	return data[:n], data[min(padded, uint64(len(data))):], true
}

// load copies the segments into fresh memory, which is zero; the parts without content stay untouched.
func (k *Kernel) load(mem *guestmem.Memory) error {
	for _, s := range k.segments {
		place, err := mem.Slice(s.mem.GPA, s.mem.Size)
		if err != nil {
			return fmt.Errorf("%w: kernel of %d bytes at %#x: %w", ErrNoRoom, k.span.Size, k.span.GPA, err)
		}
		if _, err := io.ReadFull(io.NewSectionReader(s.src, int64(s.off), int64(s.fileSize)), place[:s.fileSize]); err != nil {
			return fmt.Errorf("load kernel segment at %#x: %w", s.mem.GPA, err)
		}
	}
	return nil
}
