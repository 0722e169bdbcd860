package boot

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/aethervm/aether/internal/guestmem"
)

// Kernel is a kernel file that was checked and can be loaded. It reads from its file when it is
// loaded, so that must stay open and unchanged.
type Kernel struct {
	segments []segment
	span     guestmem.Range // from the first byte in memory to the last, in which nothing else may be
	entry    uint64         // where the first instruction is, in 64-bit mode
	pvh      uint32         // entry point of PVH, zero if none
	version  string
	header   []byte // the setup header as in the file, from hdrStart on; nil if the file has none
	unpacked bool   // what is loaded is not in the file as such
}

// Open reads a kernel file, a vmlinux (ELF) or a bzImage, which it unpacks in memory.
func Open(b Blob) (*Kernel, error) {
	magic, err := readRange(b, 0, 4, 4, "first bytes")
	if err != nil {
		return nil, fmt.Errorf("open kernel: %w", err)
	}
	var k *Kernel
	if isELF(magic) {
		k, err = openELF(b)
	} else {
		k, err = openPacked(b)
	}
	if err != nil {
		return nil, fmt.Errorf("open kernel: %w", err)
	}
	return k, nil
}

func openPacked(b Blob) (*Kernel, error) {
	z, err := openBzImage(b)
	if err != nil {
		return nil, err
	}
	vmlinux, err := z.unpack()
	if err != nil {
		return nil, err
	}
	k, err := openELF(bytes.NewReader(vmlinux))
	if err != nil {
		return nil, err
	}
	k.unpacked = true
	return k, k.adopt(z)
}

// OpenSelfUnpacking reads a bzImage that is to unpack itself in the guest; see the package's
// comment. Open is the better choice for all but experiments and unknown compressions.
func OpenSelfUnpacking(b Blob) (*Kernel, error) {
	z, err := openBzImage(b)
	var k *Kernel
	if err == nil {
		k, err = z.selfUnpacking()
	}
	if err != nil {
		return nil, fmt.Errorf("open kernel: %w", err)
	}
	return k, nil
}

// Unpack returns the vmlinux inside a kernel file, for keeping it: a vmlinux as it is, that of a
// bzImage decompressed. version is the release that a bzImage says it is of; of a vmlinux it is
// empty. The result has been checked as by Open.
func Unpack(file []byte) (vmlinux []byte, version string, err error) {
	fail := func(err error) ([]byte, string, error) { return nil, "", fmt.Errorf("unpack kernel: %w", err) }
	if !isELF(file) {
		z, err := openBzImage(bytes.NewReader(file))
		if err != nil {
			return fail(err)
		}
		if version, err = z.version(); err != nil {
			return fail(err)
		}
		if file, err = z.unpack(); err != nil {
			return fail(err)
		}
	}
	if _, err := openELF(bytes.NewReader(file)); err != nil {
		return fail(err)
	}
	return file, version, nil
}

// Version returns the release that a bzImage says it is of, without unpacking it.
func Version(b Blob) (string, error) {
	z, err := openBzImage(b)
	var version string
	if err == nil {
		version, err = z.version()
	}
	if err != nil {
		return "", fmt.Errorf("kernel version: %w", err)
	}
	return version, nil
}

// adopt takes over what only a bzImage says about a kernel.
func (k *Kernel) adopt(z *bzImage) (err error) {
	k.header = z.header[hdrStart:]
	k.version, err = z.version()
	return err
}

// Version is the release, such as 6.1.0-56-cloud-amd64; empty for a vmlinux.
func (k *Kernel) Version() string { return k.version }

// Span is the guest memory that the kernel takes before it has read the memory map.
func (k *Kernel) Span() guestmem.Range { return k.span }

// PVHEntry is the 32-bit entry point of a vmlinux with a PVH note. It is not used here, but other
// VMMs need it to boot the file.
func (k *Kernel) PVHEntry() (gpa uint32, ok bool) { return k.pvh, k.pvh != 0 }

// initrdLimit is the address that an initramfs must end at or before.
func (k *Kernel) initrdLimit() uint64 {
	return uint64(k.headerUint32(hdrInitrdAddrMax, defaultInitrdAddrMax)) + 1
}

// maxCmdline is the length of the longest command line, without its terminating zero.
func (k *Kernel) maxCmdline() int {
	return int(min(k.headerUint32(hdrCmdlineSize, defaultCmdlineSize), cmdlineSize-1))
}

// What x86-64 kernels say of themselves, for those that come without a setup header.
const (
	defaultInitrdAddrMax = 0x7fffffff
	defaultCmdlineSize   = 2047
	defaultProtocol      = 0x20f
	defaultAlignment     = 2 << 20
)

func (k *Kernel) headerUint32(off int, otherwise uint32) uint32 {
	if k.header == nil {
		return otherwise
	}
	return binary.LittleEndian.Uint32(k.header[off-hdrStart:])
}
