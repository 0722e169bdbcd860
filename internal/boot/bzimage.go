package boot

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/aethervm/aether/internal/guestmem"
)

// Fields of the setup header, by their offset in the file and in the boot parameters.
const (
	hdrStart         = 0x1f1
	hdrSetupSects    = 0x1f1
	hdrSysSize       = 0x1f4
	hdrBootFlag      = 0x1fe
	hdrJump          = 0x200 // a two-byte jump, whose distance says where the header ends
	hdrMagic         = 0x202
	hdrVersion       = 0x206
	hdrKernelVersion = 0x20e // offset of the version's text, less 0x200
	hdrTypeOfLoader  = 0x210
	hdrLoadFlags     = 0x211
	hdrCode32Start   = 0x214
	hdrRamdiskImage  = 0x218
	hdrRamdiskSize   = 0x21c
	hdrCmdLinePtr    = 0x228
	hdrInitrdAddrMax = 0x22c
	hdrAlignment     = 0x230
	hdrRelocatable   = 0x234
	hdrXLoadFlags    = 0x236
	hdrCmdlineSize   = 0x238
	hdrPayloadOffset = 0x248
	hdrPayloadLength = 0x24c
	hdrSetupData     = 0x250
	hdrPrefAddress   = 0x258
	hdrInitSize      = 0x260
	hdrEnd           = 0x268 // of the fields that this package needs
	hdrLimit         = 0x290 // where the next field of the boot parameters begins

	bootFlag   = 0xaa55
	headerText = "HdrS"

	loadedHigh = 1 << 0 // in hdrLoadFlags
	xlfKernel  = 1 << 0 // in hdrXLoadFlags: there is a 64-bit entry point

	// The 64-bit entry point is known by protocol 2.12 (Linux 3.8).
	minProtocol = 0x20c
	entry64     = 0x200
	sector      = 512

	maxImageFile  = 256 << 20
	maxAlignment  = 1 << 30
	maxVersionLen = 256
)

// bzImage is a compressed kernel as distributions ship it: a real-mode part with the setup header,
// not used here, and a protected-mode part with the payload.
type bzImage struct {
	file   Blob
	header []byte // from the start of the file up to the end of the setup header
	// protected is the protected-mode part, in the file.
	protected guestmem.Range
}

func (z *bzImage) u8(off int) uint8   { return z.header[off] }
func (z *bzImage) u16(off int) uint16 { return binary.LittleEndian.Uint16(z.header[off:]) }
func (z *bzImage) u32(off int) uint32 { return binary.LittleEndian.Uint32(z.header[off:]) }
func (z *bzImage) u64(off int) uint64 { return binary.LittleEndian.Uint64(z.header[off:]) }

// openBzImage reads and checks the setup header.
func openBzImage(b Blob) (*bzImage, error) {
	size := uint64(max(b.Size(), 0))
	if size > maxImageFile {
		return nil, fmt.Errorf("%w: file of %d bytes, more than %d", ErrFormat, size, maxImageFile)
	}
	head, err := readRange(b, 0, hdrLimit, hdrLimit, "setup header")
	if err != nil {
		return nil, err
	}
	z := &bzImage{file: b, header: head}
	if z.u16(hdrBootFlag) != bootFlag || string(head[hdrMagic:hdrMagic+4]) != headerText {
		return nil, fmt.Errorf("%w: neither an ELF file nor a bzImage", ErrFormat)
	}
	if v := z.u16(hdrVersion); v < minProtocol {
		return nil, fmt.Errorf("%w: boot protocol %d.%02d is older than 2.12", ErrUnsupported, v>>8, v&0xff)
	}
	if z.u8(hdrLoadFlags)&loadedHigh == 0 || z.u16(hdrXLoadFlags)&xlfKernel == 0 {
		return nil, fmt.Errorf("%w: no 64-bit entry point", ErrUnsupported)
	}
	end := hdrMagic + int(z.u8(hdrJump+1))
	if z.u8(hdrJump) != 0xeb || end < hdrEnd || end > hdrLimit {
		return nil, fmt.Errorf("%w: setup header ends at %#x", ErrFormat, end)
	}
	z.header = head[:end]

	sects := uint64(z.u8(hdrSetupSects))
	if sects == 0 {
		sects = 4 // "If set to 0, the real value is 4."
	}
	start := (sects + 1) * sector
	length := uint64(z.u32(hdrSysSize)) * 16
	// The build rounds syssize up; what follows it is a signature.
	if start >= size || length == 0 || length > (size-start+15)&^15 {
		return nil, fmt.Errorf("%w: protected-mode part of %d bytes at offset %#x exceeds the file of %d bytes", ErrFormat, length, start, size)
	}
	z.protected = guestmem.Range{GPA: start, Size: min(length, size-start)}
	return z, nil
}

// version is the release as the kernel was built with: what `uname -r` prints. Empty if the file
// does not say.
func (z *bzImage) version() (string, error) {
	off := uint64(z.u16(hdrKernelVersion))
	if off == 0 {
		return "", nil
	}
	// "This value should be less than (0x200*setup_sects)."
	off += 0x200
	if off >= z.protected.GPA {
		return "", fmt.Errorf("%w: version text at offset %#x is not in the setup part", ErrFormat, off)
	}
	text, err := readRange(z.file, off, min(maxVersionLen, z.protected.GPA-off), maxVersionLen, "version text")
	if err != nil {
		return "", err
	}
	if end := bytes.IndexAny(text, " \x00"); end >= 0 {
		text = text[:end]
	}
	return string(text), nil
}

// unpack decompresses the payload, a vmlinux.
func (z *bzImage) unpack() ([]byte, error) {
	off, length := uint64(z.u32(hdrPayloadOffset)), uint64(z.u32(hdrPayloadLength))
	if off > z.protected.Size || length > z.protected.Size-off {
		return nil, fmt.Errorf("%w: payload of %d bytes at offset %#x exceeds the protected-mode part of %d bytes", ErrFormat, length, off, z.protected.Size)
	}
	payload, err := readRange(z.file, z.protected.GPA+off, length, maxImageFile, "payload")
	if err != nil {
		return nil, err
	}
	vmlinux, err := decompressPayload(payload, maxKernel, maxWindow)
	if err != nil {
		return nil, err
	}
	if !isELF(vmlinux) {
		return nil, fmt.Errorf("%w: the payload is no ELF file", ErrFormat)
	}
	return vmlinux, nil
}

// selfUnpacking makes a kernel of the protected-mode part. It is loaded where it would rather be,
// and owns what it says that it needs to unpack itself before it looks at the memory map.
func (z *bzImage) selfUnpacking() (*Kernel, error) {
	addr, need := z.u64(hdrPrefAddress), uint64(z.u32(hdrInitSize))
	align := uint64(z.u32(hdrAlignment))
	if z.u8(hdrRelocatable) != 0 {
		if align == 0 || align&(align-1) != 0 || align > maxAlignment {
			return nil, fmt.Errorf("%w: alignment of %#x", ErrFormat, align)
		}
		if addr > guestmem.HoleStart {
			return nil, fmt.Errorf("%w: preferred address %#x", ErrFormat, addr)
		}
		addr = (addr + align - 1) &^ (align - 1)
	}
	need = max(need, z.protected.Size)
	if addr < highAddr || addr >= guestmem.HoleStart || need > guestmem.HoleStart-addr || need > maxKernel {
		return nil, fmt.Errorf("%w: needs %d bytes at %#x", ErrFormat, need, addr)
	}
	if z.protected.Size <= entry64 {
		return nil, fmt.Errorf("%w: protected-mode part of %d bytes", ErrFormat, z.protected.Size)
	}
	span := guestmem.Range{GPA: addr, Size: need}
	k := &Kernel{
		entry:    addr + entry64,
		span:     span,
		segments: []segment{{src: z.file, off: z.protected.GPA, fileSize: z.protected.Size, mem: span}},
	}
	return k, k.adopt(z)
}
