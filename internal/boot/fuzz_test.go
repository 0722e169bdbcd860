package boot

import (
	"bytes"
	"errors"
	"testing"

	"github.com/aethervm/aether/internal/boot/boottest"
	"github.com/aethervm/aether/internal/guestmem"
)

// FuzzUnpack gives each decompressor what follows its magic number: a whole file, as of a kernel
// module. The result keeps to its limit.
func FuzzUnpack(f *testing.F) {
	magics := []string{"\x1f\x8b", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd", "BZh", "\x02\x21\x4c\x18"}
	for i, name := range formats {
		p := readPayload(f, name)
		for _, m := range magics {
			if bytes.HasPrefix(p, []byte(m)) {
				p = p[len(m):]
			}
		}
		f.Add(byte(i), p)
	}
	for i := range magics {
		f.Add(byte(i), []byte{})
		f.Add(byte(i), bytes.Repeat([]byte{0xff}, 64))
	}
	f.Fuzz(func(t *testing.T, which byte, data []byte) {
		const limit = 1 << 20
		data = append([]byte(magics[int(which)%len(magics)]), data...)
		out, err := Decompress(data, limit)
		switch {
		case err == nil && len(out) > limit:
			t.Errorf("%d bytes", len(out))
		case err != nil && !errors.Is(err, ErrFormat):
			t.Errorf("untyped error: %v", err)
		}
	})
}

// claimed is a blob that says that it is larger, or smaller, than it is.
type claimed struct {
	*bytes.Reader
	size int64
}

func (c claimed) Size() int64 { return c.size }

// FuzzLoad loads a small kernel with an initramfs that lies about its size, any command line and any
// devices: a typed error, or a guest whose parts are in RAM and do not overlap.
func FuzzLoad(f *testing.F) {
	const size = 64 << 20
	mem := newRAM(f, size)
	kernel, err := Open(bytes.NewReader(boottest.Vmlinux()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("initrd"), int64(6), "console=ttyS0", byte(1), byte(1), uint64(DeviceAddr), uint64(DeviceSize), uint32(DeviceGSI))
	f.Add([]byte("initrd"), int64(7), "", byte(8), byte(0), uint64(0), uint64(0), uint32(0))
	f.Add([]byte{}, int64(-1), "a\x00b", byte(0), byte(18), uint64(1<<32-1), uint64(1<<63), uint32(23))
	f.Add([]byte{}, int64(1<<62), "", byte(9), byte(19), uint64(0xfee00000), uint64(4096), uint32(4))
	f.Add(make([]byte, 4096), int64(4096), "x", byte(2), byte(2), ^uint64(0), ^uint64(0), ^uint32(0))
	f.Fuzz(func(t *testing.T, initrd []byte, claim int64, cmdline string, vcpus, devices byte, gpa, n uint64, gsi uint32) {
		cfg := Config{
			Kernel: kernel, Cmdline: cmdline, VCPUs: int(vcpus),
			Initrd: claimed{bytes.NewReader(initrd), claim},
		}
		for i := range uint64(devices) {
			cfg.Devices = append(cfg.Devices, Device{
				Registers: guestmem.Range{GPA: gpa + i*n, Size: n}, GSI: gsi + uint32(i),
			})
		}
		cpu, err := Load(mem, cfg)
		if claim > int64(len(initrd)) && err == nil {
			t.Fatalf("an initramfs of %d bytes was taken for one of %d", len(initrd), claim)
		}
		if err != nil {
			if claim <= int64(len(initrd)) && !errors.Is(err, ErrConfig) && !errors.Is(err, ErrNoRoom) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		if vcpus < 1 || vcpus > MaxVCPUs || len(cmdline) >= cmdlineSize || int(devices) > MaxDevices {
			t.Fatalf("%d vCPUs, a command line of %d bytes and %d devices were accepted", vcpus, len(cmdline), devices)
		}
		if span := kernel.Span(); cpu.RIP < span.GPA || cpu.RIP >= span.End() {
			t.Fatalf("starts at %#x, outside of %#x", cpu.RIP, span)
		}
		if claim > 0 {
			var got [8]byte
			params := func(off uint64) uint64 {
				if err := mem.ReadAt(got[:4], paramsAddr+off); err != nil {
					t.Fatal(err)
				}
				return uint64(got[0]) | uint64(got[1])<<8 | uint64(got[2])<<16 | uint64(got[3])<<24
			}
			at, length := params(hdrRamdiskImage), params(hdrRamdiskSize)
			if length != uint64(claim) || at < kernel.Span().End() || at+length > size {
				t.Fatalf("initramfs of %d bytes at %#x, %d bytes of it", claim, at, length)
			}
		}
	})
}
