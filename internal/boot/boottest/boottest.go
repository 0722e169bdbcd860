// Package boottest makes kernels for tests: the smallest files that have what package boot looks at.
// They can be loaded, and do nothing of use if run.
package boottest

import (
	"debug/elf"
	"encoding/binary"

	"github.com/klauspost/compress/zstd"
)

// Sizes of the parts of an ELF file.
const (
	elfHeaderSize  = 64
	progHeaderSize = 56
)

// Part is a program header of ELF and its content. Extra is zeroed memory after it, in bytes.
type Part struct {
	Type  elf.ProgType
	GPA   uint64
	Data  []byte
	Extra uint64
}

// ELF is an x86-64 executable.
func ELF(entry uint64, parts ...Part) []byte {
	le := binary.LittleEndian
	f := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	f = le.AppendUint16(f, uint16(elf.ET_EXEC))
	f = le.AppendUint16(f, uint16(elf.EM_X86_64))
	f = le.AppendUint32(f, 1)
	f = le.AppendUint64(f, entry)
	f = le.AppendUint64(f, elfHeaderSize) // where the program headers are
	f = le.AppendUint64(f, 0)             // no sections
	f = le.AppendUint32(f, 0)
	for _, v := range []int{elfHeaderSize, progHeaderSize, len(parts), 64, 0, 0} {
		f = le.AppendUint16(f, uint16(v))
	}
	off := uint64(elfHeaderSize + progHeaderSize*len(parts))
	for _, p := range parts {
		f = le.AppendUint32(f, uint32(p.Type))
		f = le.AppendUint32(f, uint32(elf.PF_R|elf.PF_W|elf.PF_X))
		size := uint64(len(p.Data))
		for _, v := range []uint64{off, p.GPA, p.GPA, size, size + p.Extra, 4} {
			f = le.AppendUint64(f, v)
		}
		off += size
	}
	for _, p := range parts {
		f = append(f, p.Data...)
	}
	return f
}

// PVHNote is the content of a note segment with a PVH entry point, after another note.
func PVHNote(entry uint32) []byte {
	const xenPhys32Entry = 18
	le := binary.LittleEndian
	note := func(typ uint32, desc []byte) []byte {
		var n []byte
		for _, v := range []uint32{4, uint32(len(desc)), typ} {
			n = le.AppendUint32(n, v)
		}
		n = append(append(n, "Xen\x00"...), desc...)
		return append(n, make([]byte, -len(n)&3)...)
	}
	return append(note(6, []byte("linux\x00")), note(xenPhys32Entry, le.AppendUint32(nil, entry))...)
}

// Addr is where Vmlinux is loaded and entered.
const Addr = 0x1000000

// Vmlinux is a kernel of a few hundred bytes, half a page of which is not in the file. Its PVH entry
// point is Addr + 0x40.
func Vmlinux() []byte { return vmlinux("") }

// VmlinuxOf is a Vmlinux that says, as a real one does somewhere, what version it is of.
func VmlinuxOf(version string) []byte {
	return vmlinux("Linux version " + version + " (someone@somewhere) #1 SMP\n\x00")
}

func vmlinux(banner string) []byte {
	code := make([]byte, 300)
	for i := range code {
		code[i] = byte(i) | 1
	}
	return ELF(Addr,
		Part{Type: elf.PT_LOAD, GPA: Addr, Data: append(code, banner...)},
		Part{Type: elf.PT_LOAD, GPA: Addr + 0x200000, Data: code[:17], Extra: 0x800},
		Part{Type: elf.PT_NOTE, Data: PVHNote(Addr + 0x40)})
}

// Fields of the setup header, by their offset in the file:
// https://docs.kernel.org/arch/x86/boot.html
const (
	setupSects    = 0x1f1
	sysSize       = 0x1f4
	bootFlag      = 0x1fe
	jump          = 0x200
	magic         = 0x202
	protocol      = 0x206
	kernelVersion = 0x20e // offset of the version's text, less 0x200
	loadFlags     = 0x211
	initrdAddrMax = 0x22c
	alignment     = 0x230
	relocatable   = 0x234
	xLoadFlags    = 0x236
	cmdlineSize   = 0x238
	payloadOffset = 0x248
	payloadLength = 0x24c
	setupData     = 0x250
	prefAddress   = 0x258
	initSize      = 0x260
	headerEnd     = 0x26c

	sector      = 512
	versionText = 0x2a0
	payloadAt   = 0x300 // in the protected-mode part
)

// MaxVersion is the length of the longest version that BzImage has room for, in bytes.
const MaxVersion = 2*sector - versionText - len(builder)

const builder = " (someone@somewhere) #1\x00"

// BzImage wraps a payload, such as that of Zstd, as the kernel's build does, with one sector of set-up
// code. It panics if the version is longer than MaxVersion.
func BzImage(version string, payload []byte) []byte {
	if len(version) > MaxVersion {
		panic("boottest: version is too long")
	}
	le := binary.LittleEndian
	f := make([]byte, 2*sector+payloadAt)
	f[setupSects] = 1
	le.PutUint16(f[bootFlag:], 0xaa55)
	f[jump], f[jump+1] = 0xeb, headerEnd-magic
	copy(f[magic:], "HdrS")
	le.PutUint16(f[protocol:], 0x20f)
	le.PutUint16(f[kernelVersion:], versionText-0x200)
	copy(f[versionText:], version+builder)
	f[loadFlags] = 1 // loaded high
	le.PutUint32(f[initrdAddrMax:], 0x7fffffff)
	le.PutUint32(f[alignment:], 0x200000)
	f[relocatable] = 1
	le.PutUint16(f[xLoadFlags:], 0x7f)
	le.PutUint32(f[cmdlineSize:], 2047)
	le.PutUint32(f[payloadOffset:], payloadAt)
	le.PutUint32(f[payloadLength:], uint32(len(payload)))
	le.PutUint64(f[setupData:], 0xdeadbeef)
	le.PutUint64(f[prefAddress:], Addr)
	le.PutUint32(f[initSize:], 0x400000)
	f = append(f, payload...)
	f = append(f, make([]byte, -len(f)&15)...)
	le.PutUint32(f[sysSize:], uint32(len(f)-2*sector)/16)
	return f
}

// Zstd packs a kernel as the payload of a bzImage, with its size at the end.
func Zstd(kernel []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err) // only options can be wrong
	}
	defer func() { _ = w.Close() }() // it writes to nothing
	return binary.LittleEndian.AppendUint32(w.EncodeAll(kernel, nil), uint32(len(kernel)))
}
