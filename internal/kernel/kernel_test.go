package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

// module is the smallest ELF file with a .modinfo section.
func module(t testing.TB, modinfo string) []byte {
	t.Helper()
	names := "\x00.modinfo\x00.shstrtab\x00"
	header := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64,
		Shentsize: 64, Shnum: 3, Shstrndx: 2, Shoff: uint64(64 + len(modinfo) + len(names))}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	var b bytes.Buffer
	for _, part := range []any{
		header, []byte(modinfo + names), elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(modinfo))},
		elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(modinfo)), Size: uint64(len(names))},
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func FuzzModinfo(f *testing.F) {
	f.Add(module(f, "name=virtio_blk\x00depends=virtio,virtio-ring\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := readModinfo(data)
		if err != nil {
			return
		}
		for _, name := range append(info.Depends, info.Name) {
			if !validVersion(name) {
				t.Errorf("name %q", name)
			}
		}
	})
}

func TestReadModinfo(t *testing.T) {
	got, err := readModinfo(module(t, "license=GPL\x00depends=virtio,virtio-ring\x00name=virtio-blk\x00"))
	if err != nil || got.Name != "virtio_blk" || !slices.Equal(got.Depends, []string{"virtio", "virtio_ring"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"", "name=../x\x00", "name=a\x00depends=/b\x00"} {
		if got, err := readModinfo(module(t, bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: got %+v, %v", bad, got, err)
		}
	}
}

func TestOrder(t *testing.T) {
	have := map[string]Module{}
	for _, m := range []Module{
		{"ring", nil}, {"virtio", []string{"ring"}}, {"blk", []string{"virtio", "ring"}},
		{"a", []string{"b"}}, {"b", []string{"a"}}, // a cycle must end
		{"lone", []string{"built_in"}},
	} {
		have[m.Name] = m
	}
	for _, c := range []struct{ ask, want []string }{
		{[]string{"blk"}, []string{"ring", "virtio", "blk"}},
		{[]string{"ring", "blk", "virtio"}, []string{"ring", "virtio", "blk"}},
		{[]string{"none", "lone"}, []string{"lone"}},
		{[]string{"a"}, []string{"b", "a"}},
	} {
		var got []string
		for _, m := range order(have, c.ask) {
			got = append(got, m.Name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("order of %q: %q, want %q", c.ask, got, c.want)
		}
	}
}

func TestCompareVersions(t *testing.T) {
	sorted := []string{"5.10.0-9", "6.1.0-9-cloud", "6.1.0-56-cloud", "6.12.1", "6.12.1+deb12"}
	for i, a := range sorted {
		for j, b := range sorted {
			if got, want := compareVersions(a, b), compareInt(i, j); got != want {
				t.Errorf("compare %s, %s: %d, want %d", a, b, got, want)
			}
		}
	}
}

func compareInt(a, b int) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
