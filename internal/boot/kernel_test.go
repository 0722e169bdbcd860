package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/aethervm/aether/internal/boot/boottest"
	"github.com/aethervm/aether/internal/guestmem"
)

const synthVersion = "6.66.0-synth"

func newRAM(t testing.TB, size uint64) *guestmem.Memory {
	t.Helper()
	mem, err := guestmem.New(size, guestmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mem.Close() })
	return mem
}

func TestOpen(t *testing.T) {
	vmlinux := boottest.Vmlinux()
	image := boottest.BzImage(synthVersion, boottest.Zstd(vmlinux))
	for _, tc := range []struct {
		name    string
		file    []byte
		open    func(Blob) (*Kernel, error)
		entry   uint64
		span    guestmem.Range
		version string
		pvh     bool
	}{
		{"vmlinux", vmlinux, Open, boottest.Addr, guestmem.Range{GPA: boottest.Addr, Size: 0x200811}, "", true},
		{"bzImage", image, Open, boottest.Addr, guestmem.Range{GPA: boottest.Addr, Size: 0x200811}, synthVersion, true},
		{"self-unpacking", image, OpenSelfUnpacking, boottest.Addr + 0x200, guestmem.Range{GPA: boottest.Addr, Size: 0x400000}, synthVersion, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, err := tc.open(bytes.NewReader(tc.file))
			if err != nil {
				t.Fatal(err)
			}
			if k.entry != tc.entry || k.Span() != tc.span || k.Version() != tc.version {
				t.Errorf("entry %#x, span %#x, version %q; want %#x, %#x, %q", k.entry, k.Span(), k.Version(), tc.entry, tc.span, tc.version)
			}
			if pvh, ok := k.PVHEntry(); ok != tc.pvh || ok && pvh != boottest.Addr+0x40 {
				t.Errorf("PVH entry %#x, %v", pvh, ok)
			}
		})
	}
	got, version, err := Unpack(image)
	if err != nil || !bytes.Equal(got, vmlinux) || version != synthVersion {
		t.Errorf("Unpack: %d bytes, %q, %v", len(got), version, err)
	}
	if got, version, err = Unpack(vmlinux); err != nil || !bytes.Equal(got, vmlinux) || version != "" {
		t.Errorf("Unpack of a vmlinux: %d bytes, %q, %v", len(got), version, err)
	}
	if version, err = Version(bytes.NewReader(image)); err != nil || version != synthVersion {
		t.Errorf("Version: %q, %v", version, err)
	}
}

func TestKernelLoad(t *testing.T) {
	vmlinux := boottest.Vmlinux()
	k, err := Open(bytes.NewReader(vmlinux))
	if err != nil {
		t.Fatal(err)
	}
	mem := newRAM(t, 64<<20)
	if err := mem.Acquire(); err != nil {
		t.Fatal(err)
	}
	defer mem.Release()
	if err := k.load(mem); err != nil {
		t.Fatal(err)
	}
	content := elfHeaderSize + 3*progHeaderSize
	for _, part := range []struct {
		gpa  uint64
		data []byte
	}{
		{boottest.Addr, vmlinux[content : content+300]},
		{boottest.Addr + 300, make([]byte, 64)},
		{boottest.Addr + 0x200000, append(bytes.Clone(vmlinux[content+300:content+317]), make([]byte, 64)...)},
	} {
		got := make([]byte, len(part.data))
		if err := mem.ReadAt(got, part.gpa); err != nil || !bytes.Equal(got, part.data) {
			t.Errorf("at %#x: % x, %v", part.gpa, got, err)
		}
	}
	if err := k.load(newRAM(t, boottest.Addr+0x200000)); !errors.Is(err, ErrNoRoom) {
		t.Errorf("too little memory: %v", err)
	}
}

// mutate returns a copy of file with a little-endian number of the given width at an offset.
func mutate(file []byte, off, width int, v uint64) []byte {
	out := bytes.Clone(file)
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	copy(out[off:off+width], b[:width])
	return out
}

func TestMalformedELF(t *testing.T) {
	good := boottest.Vmlinux()
	const prog0, prog1 = elfHeaderSize, elfHeaderSize + progHeaderSize
	const top = ^uint64(0)
	for name, tc := range map[string]struct {
		file []byte
		want error
	}{
		"empty":                    {nil, ErrFormat},
		"no ELF file":              {[]byte("#!/bin/sh\n"), ErrFormat},
		"cut header":               {good[:elfHeaderSize-1], ErrFormat},
		"cut program headers":      {good[:elfHeaderSize+progHeaderSize], ErrFormat},
		"cut segment":              {good[:len(good)-100], ErrFormat},
		"32 bits":                  {mutate(good, 4, 1, 1), ErrUnsupported},
		"big endian":               {mutate(good, 5, 1, 2), ErrUnsupported},
		"shared object":            {mutate(good, 16, 2, 3), ErrUnsupported},
		"arm64":                    {mutate(good, 18, 2, uint64(elf.EM_AARCH64)), ErrUnsupported},
		"entry outside":            {mutate(good, 24, 8, boottest.Addr+300), ErrFormat},
		"entry at the top":         {mutate(good, 24, 8, top), ErrFormat},
		"program headers outside":  {mutate(good, 32, 8, top), ErrFormat},
		"size of program header":   {mutate(good, 54, 2, 32), ErrFormat},
		"no program headers":       {mutate(good, 56, 2, 0), ErrFormat},
		"too many program headers": {mutate(good, 56, 2, maxSegments+1), ErrFormat},
		"offset at the top":        {mutate(good, prog0+8, 8, top), ErrFormat},
		"address at the top":       {mutate(good, prog0+24, 8, top), ErrFormat},
		"address in low memory":    {mutate(good, prog0+24, 8, highAddr-1), ErrFormat},
		"address in the hole":      {mutate(good, prog0+24, 8, guestmem.HoleStart-1), ErrFormat},
		"overlap":                  {mutate(good, prog1+24, 8, boottest.Addr+299), ErrFormat},
		"span":                     {mutate(good, prog1+24, 8, boottest.Addr+maxKernel), ErrFormat},
		"file size at the top":     {mutate(good, prog0+32, 8, top), ErrFormat},
		"more in file than memory": {mutate(good, prog0+40, 8, 299), ErrFormat},
		"memory size at the top":   {mutate(good, prog0+40, 8, top), ErrFormat},
		"notes outside":            {mutate(good, prog1+progHeaderSize+8, 8, uint64(len(good))), ErrFormat},
		"notes too large":          {mutate(good, prog1+progHeaderSize+32, 8, maxNotes+1), ErrFormat},
	} {
		if k, err := Open(bytes.NewReader(tc.file)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, %v, want %v", name, k, err, tc.want)
		}
	}
	// A note that is cut off is passed over.
	for _, size := range []uint64{0, 11, 13, 17, 23, 35, 43} {
		k, err := Open(bytes.NewReader(mutate(good, prog1+progHeaderSize+32, 8, size)))
		if err != nil {
			t.Errorf("notes of %d bytes: %v", size, err)
		} else if _, ok := k.PVHEntry(); ok {
			t.Errorf("notes of %d bytes have a PVH entry", size)
		}
	}
}

func TestMalformedBzImage(t *testing.T) {
	good := boottest.BzImage(synthVersion, boottest.Zstd(boottest.Vmlinux()))
	for name, tc := range map[string]struct {
		file []byte
		want error
	}{
		"cut header":          {good[:hdrLimit-1], ErrFormat},
		"no boot flag":        {mutate(good, hdrBootFlag, 2, 0), ErrFormat},
		"no magic":            {mutate(good, hdrMagic, 4, 0), ErrFormat},
		"old protocol":        {mutate(good, hdrVersion, 2, 0x20b), ErrUnsupported},
		"zImage":              {mutate(good, hdrLoadFlags, 1, 0), ErrUnsupported},
		"32 bits":             {mutate(good, hdrXLoadFlags, 2, 0), ErrUnsupported},
		"no jump":             {mutate(good, hdrJump, 1, 0x90), ErrFormat},
		"short header":        {mutate(good, hdrJump+1, 1, hdrEnd-hdrMagic-1), ErrFormat},
		"long header":         {mutate(good, hdrJump+1, 1, hdrLimit-hdrMagic+1), ErrFormat},
		"set-up part outside": {mutate(good, hdrSetupSects, 1, 64), ErrFormat},
		"size 0":              {mutate(good, hdrSysSize, 4, 0), ErrFormat},
		"size too large":      {mutate(good, hdrSysSize, 4, uint64(len(good)-2*sector)/16+1), ErrFormat},
		"size at the top":     {mutate(good, hdrSysSize, 4, 1<<32-1), ErrFormat},
		"payload outside":     {mutate(good, hdrPayloadOffset, 4, 1<<32-1), ErrFormat},
		"payload too long":    {mutate(good, hdrPayloadLength, 4, 1<<32-1), ErrFormat},
		"payload empty":       {mutate(good, hdrPayloadLength, 4, 0), ErrUnsupported},
		"payload cut":         {mutate(good, hdrPayloadLength, 4, 40), ErrFormat},
		"version outside":     {mutate(good, hdrKernelVersion, 2, 0x200), ErrFormat},
		"no kernel inside":    {boottest.BzImage(synthVersion, boottest.Zstd([]byte("nothing"))), ErrFormat},
	} {
		if k, err := Open(bytes.NewReader(tc.file)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, %v, want %v", name, k, err, tc.want)
		}
	}
	for name, tc := range map[string]struct {
		file []byte
		want error
	}{
		"alignment 0":        {mutate(good, hdrAlignment, 4, 0), ErrFormat},
		"alignment 3":        {mutate(good, hdrAlignment, 4, 3), ErrFormat},
		"alignment 2 GiB":    {mutate(good, hdrAlignment, 4, 1<<31), ErrFormat},
		"address 0":          {mutate(good, hdrPrefAddress, 8, 0), ErrFormat},
		"address at the top": {mutate(good, hdrPrefAddress, 8, ^uint64(0)), ErrFormat},
		"address in hole":    {mutate(good, hdrPrefAddress, 8, guestmem.HoleStart), ErrFormat},
		"needs too much":     {mutate(good, hdrInitSize, 4, maxKernel+1), ErrFormat},
	} {
		if k, err := OpenSelfUnpacking(bytes.NewReader(tc.file)); !errors.Is(err, tc.want) {
			t.Errorf("self-unpacking, %s: %v, %v, want %v", name, k, err, tc.want)
		}
	}
	if k, err := Open(bytes.NewReader(mutate(good, hdrKernelVersion, 2, 0))); err != nil || k.Version() != "" {
		t.Errorf("without a version: %v", err)
	}
	if k, err := OpenSelfUnpacking(bytes.NewReader(mutate(good, hdrPrefAddress, 8, boottest.Addr+1))); err != nil || k.Span().GPA != boottest.Addr+0x200000 {
		t.Errorf("an address that is not aligned: %v, %v", k, err)
	}
}

// FuzzOpen loads whatever is accepted: nothing may be written outside the kernel's span.
func FuzzOpen(f *testing.F) {
	vmlinux := boottest.Vmlinux()
	f.Add(vmlinux)
	f.Add(boottest.BzImage(synthVersion, boottest.Zstd(vmlinux)))
	for _, name := range formats {
		f.Add(boottest.BzImage(synthVersion, readPayload(f, name)))
	}
	mem := newRAM(f, 64<<20)
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := mem.Acquire(); err != nil {
			t.Fatal(err)
		}
		defer mem.Release()
		for _, open := range []func(Blob) (*Kernel, error){Open, OpenSelfUnpacking} {
			k, err := open(bytes.NewReader(data))
			if err != nil {
				if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrUnsupported) {
					t.Errorf("untyped error: %v", err)
				}
				continue
			}
			span := k.Span()
			if span.GPA < highAddr || span.End() > guestmem.HoleStart || span.Size > maxKernel {
				t.Fatalf("span %#x", span)
			}
			if k.entry < span.GPA || k.entry >= span.End() {
				t.Fatalf("entry %#x outside of %#x", k.entry, span)
			}
			for _, s := range k.segments {
				if s.mem.GPA < span.GPA || s.mem.End() > span.End() || s.fileSize > s.mem.Size {
					t.Fatalf("segment %+v outside of %#x", s, span)
				}
			}
			if err := k.load(mem); err != nil && !errors.Is(err, ErrNoRoom) {
				t.Fatal(err)
			}
		}
	})
}
