package boot_test

import (
	"bytes"
	"debug/elf"
	"os"
	"testing"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/kernel"
)

// A distribution's kernel, against debug/elf's reading of it.
func TestRealVmlinux(t *testing.T) {
	file := openBlob(t, installedKernel(t).Vmlinux())
	k, err := boot.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(file)
	if err != nil {
		t.Fatal(err)
	}
	start, end := ^uint64(0), uint64(0)
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD {
			start, end = min(start, p.Paddr), max(end, p.Paddr+p.Memsz)
		}
	}
	if span := k.Span(); span.GPA != start || span.End() != end {
		t.Errorf("span %#x, want %#x to %#x", span, start, end)
	}
	if start&(2<<20-1) != 0 || end-start < 16<<20 {
		t.Errorf("an odd kernel, from %#x to %#x", start, end)
	}
	if entry, ok := k.PVHEntry(); !ok || uint64(entry) < start || uint64(entry) >= end {
		t.Errorf("PVH entry %#x, %v", entry, ok)
	}
}

func TestRealBzImage(t *testing.T) {
	data, err := os.ReadFile(bzImagePath(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	vmlinux, version, err := boot.Unpack(data)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(vmlinux))
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != elf.EM_X86_64 || version == "" {
		t.Errorf("version %q, machine %v", version, f.Machine)
	}
	// The text that /proc/version will show.
	if !bytes.Contains(vmlinux, []byte("Linux version "+version+" ")) {
		t.Errorf("the unpacked kernel does not say that it is version %s", version)
	}
	k, err := boot.Open(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	self, err := boot.OpenSelfUnpacking(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if k.Version() != version || self.Version() != version {
		t.Errorf("versions %q, %q, %q", version, k.Version(), self.Version())
	}
	// What unpacks itself needs all the memory of the result, at the same place.
	if k.Span().GPA != self.Span().GPA || k.Span().End() > self.Span().End() {
		t.Errorf("unpacked at %#x, self-unpacking at %#x", k.Span(), self.Span())
	}
}

func BenchmarkUnpack(b *testing.B) {
	data, err := os.ReadFile(os.Getenv(kernel.EnvKernel))
	if err != nil {
		b.Skip("AETHER_KERNEL names no bzImage")
	}
	for b.Loop() {
		if _, _, err := boot.Unpack(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	path := installedKernel(b).Vmlinux()
	for b.Loop() {
		mem, err := guestmem.New(256<<20, guestmem.Options{})
		if err != nil {
			b.Fatal(err)
		}
		k, err := boot.Open(openBlob(b, path))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := boot.Load(mem, boot.Config{Kernel: k, VCPUs: 1}); err != nil {
			b.Fatal(err)
		}
		if err := mem.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
