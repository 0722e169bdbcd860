package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
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

// bzImage wraps a packed kernel as the kernel's build does.
func bzImage(version string, payload []byte) []byte {
	const sects = 4
	image := make([]byte, (sects+1)*512)
	image[offSetupSects] = sects
	copy(image[offMagic:], "HdrS")
	binary.LittleEndian.PutUint16(image[offProtocol:], 0x20f)
	binary.LittleEndian.PutUint16(image[offKernelVersion:], 0x300-0x200)
	copy(image[0x300:], version+" (builder@host) #1\x00")
	binary.LittleEndian.PutUint32(image[offPayload:], 0)
	binary.LittleEndian.PutUint32(image[offPayloadLength:], uint32(len(payload)))
	return append(image, payload...)
}

// packers are those that the kernel's build has; all but gzip get the size appended.
var packers = map[string]func(io.Writer) (io.WriteCloser, error){
	"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
	"xz":   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
	"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
	"lz4": func(w io.Writer) (io.WriteCloser, error) {
		l := lz4.NewWriter(w)
		return l, l.Apply(lz4.LegacyOption(true))
	},
}

func pack(t testing.TB, format string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := packers[format](&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if format == "gzip" {
		return b.Bytes()
	}
	return binary.LittleEndian.AppendUint32(b.Bytes(), uint32(len(data)))
}

func vmlinux(t testing.TB) []byte {
	return append(module(t, "name=vmlinux\x00"), bytes.Repeat([]byte("kernel text "), 10_000)...)
}

func TestUnpackImage(t *testing.T) {
	want := vmlinux(t)
	for format := range packers {
		t.Run(format, func(t *testing.T) {
			packed := pack(t, format, want)
			got, err := unpackImage(bzImage("6.1.0-x", packed))
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("unpacked %d bytes, %v; want %d", len(got), err, len(want))
			}
			for _, cut := range []int{1, 5, len(packed) / 2} {
				if _, err := unpackImage(bzImage("6.1.0-x", packed[:len(packed)-cut])); !errors.Is(err, ErrFormat) {
					t.Errorf("cut by %d bytes: %v, want ErrFormat", cut, err)
				}
			}
		})
	}
	if got, err := unpackImage(want); err != nil || !bytes.Equal(got, want) {
		t.Errorf("an ELF kernel is not passed through: %v", err)
	}
}

func TestImageVersion(t *testing.T) {
	if v, err := imageVersion(bzImage("6.1.0-56-cloud-amd64", nil)); v != "6.1.0-56-cloud-amd64" || err != nil {
		t.Errorf("got %q, %v", v, err)
	}
	for _, bad := range []string{"", "../../etc", ".hidden", "a/b"} {
		if v, err := imageVersion(bzImage(bad, nil)); !errors.Is(err, ErrFormat) {
			t.Errorf("version %q: got %q, %v", bad, v, err)
		}
	}
}

func FuzzImage(f *testing.F) {
	for format := range packers {
		f.Add(bzImage("6.1.0-x", pack(f, format, vmlinux(f))))
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		if v, err := imageVersion(image); err == nil && !validVersion(v) {
			t.Errorf("version %q", v)
		}
		if out, err := unpackImage(image); err == nil && !isELF(out) {
			t.Error("unpacked to something that is no ELF file")
		}
	})
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

func TestImportAndFind(t *testing.T) {
	root, source := filepath.Join(t.TempDir(), "kernels"), t.TempDir()
	if _, err := Find(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("find in nothing: %v", err)
	}
	write := func(name string, data []byte) {
		t.Helper()
		path := filepath.Join(source, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	blk := module(t, "name=virtio_blk\x00depends=virtio_ring,virtio\x00")
	packed := pack(t, "xz", blk)
	write("kernel/drivers/block/virtio_blk.ko.xz", packed[:len(packed)-4])
	write("kernel/drivers/virtio/virtio_ring.ko", module(t, "name=virtio_ring\x00depends=\x00"))
	write("kernel/fs/unwanted.ko", module(t, "name=unwanted\x00"))
	write("modules.builtin", []byte("kernel/drivers/virtio/virtio.ko\n"))
	for _, version := range []string{"6.1.9-x", "6.1.10-x"} {
		write("vmlinuz-"+version, bzImage(version, pack(t, "zstd", vmlinux(t))))
		k, err := Import(root, filepath.Join(source, "vmlinuz-"+version), source)
		if err != nil {
			t.Fatal(err)
		}
		if k.Version != version || len(k.Modules) != 2 {
			t.Errorf("imported %+v", k)
		}
	}
	k, err := Find(root)
	if err != nil || k.Version != "6.1.10-x" {
		t.Fatalf("found %+v, %v", k, err)
	}
	if got, err := os.ReadFile(k.Vmlinux()); err != nil || !bytes.Equal(got, vmlinux(t)) {
		t.Errorf("the kernel's image: %d bytes, %v", len(got), err)
	}
	load := k.Load("virtio-blk")
	if len(load) != 2 || load[0].Name != "virtio_ring" || load[1].Name != "virtio_blk" {
		t.Fatalf("to be loaded: %+v", load)
	}
	if got, err := os.ReadFile(k.ModulePath(load[1])); err != nil || !bytes.Equal(got, blk) {
		t.Errorf("module: %d bytes, %v", len(got), err)
	}
	if left, _ := filepath.Glob(filepath.Join(root, makingPrefix+"*")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
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

func TestParsePackage(t *testing.T) {
	got, err := parsePackage("Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n")
	if got != "linux-image-6.1.0-56-cloud-amd64" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := parsePackage("Package: x\nDepends: libc6\n"); err == nil {
		t.Errorf("got %q", got)
	}
}
