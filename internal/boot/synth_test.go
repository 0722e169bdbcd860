package boot

import (
	"debug/elf"
	"encoding/binary"
)

// Kernels made for tests: the smallest files that have what the loaders look at.

// SynthPart is a program header of SynthELF and its content. Extra is zeroed memory after it.
type SynthPart struct {
	Type  elf.ProgType
	GPA   uint64
	Data  []byte
	Extra uint64
}

// SynthELF is an x86-64 executable.
func SynthELF(entry uint64, parts ...SynthPart) []byte {
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

// SynthPVHNote is the content of a note segment with a PVH entry point, after another note.
func SynthPVHNote(entry uint32) []byte {
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

const synthAddr = 0x1000000

// synthVmlinux is a kernel of a few hundred bytes, half a page of which is not in the file.
func synthVmlinux() []byte {
	code := make([]byte, 300)
	for i := range code {
		code[i] = byte(i) | 1
	}
	return SynthELF(synthAddr,
		SynthPart{Type: elf.PT_LOAD, GPA: synthAddr, Data: code},
		SynthPart{Type: elf.PT_LOAD, GPA: synthAddr + 0x200000, Data: code[:17], Extra: 0x800},
		SynthPart{Type: elf.PT_NOTE, Data: SynthPVHNote(synthAddr + 0x40)})
}

const synthVersion = "6.66.0-synth"

// synthBzImage wraps a payload as the kernel's build does, with one sector of set-up code.
func synthBzImage(payload []byte) []byte {
	const payloadOffset = 0x300
	le := binary.LittleEndian
	f := make([]byte, 2*sector+payloadOffset)
	f[hdrSetupSects] = 1
	le.PutUint16(f[hdrBootFlag:], bootFlag)
	f[hdrJump], f[hdrJump+1] = 0xeb, 0x26c-hdrMagic
	copy(f[hdrMagic:], headerText)
	le.PutUint16(f[hdrVersion:], defaultProtocol)
	le.PutUint16(f[hdrKernelVersion:], 0x2a0-0x200)
	copy(f[0x2a0:], synthVersion+" (someone@somewhere) #1\x00")
	f[hdrLoadFlags] = loadedHigh
	le.PutUint32(f[hdrInitrdAddrMax:], 0x7fffffff)
	le.PutUint32(f[hdrAlignment:], 0x200000)
	f[hdrRelocatable] = 1
	le.PutUint16(f[hdrXLoadFlags:], 0x7f)
	le.PutUint32(f[hdrCmdlineSize:], 2047)
	le.PutUint32(f[hdrPayloadOffset:], payloadOffset)
	le.PutUint32(f[hdrPayloadLength:], uint32(len(payload)))
	le.PutUint64(f[hdrSetupData:], 0xdeadbeef)
	le.PutUint64(f[hdrPrefAddress:], synthAddr)
	le.PutUint32(f[hdrInitSize:], 0x400000)
	f = append(f, payload...)
	f = append(f, make([]byte, -len(f)&15)...)
	le.PutUint32(f[hdrSysSize:], uint32(len(f)-2*sector)/16)
	return f
}
