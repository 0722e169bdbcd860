package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

func TestHostileArchives(t *testing.T) {
	owner := file("f", "x")
	owner.Uid = -1
	huge := tar.Header{Typeflag: tar.TypeReg, Name: "huge", Mode: 0o644, Size: 1 << 50}
	root := file(".", "x")
	deep := file(strings.Repeat("d/", 3000)+"f", "x")

	for _, c := range []struct {
		name    string
		entries []tar.Header
		want    []string // the tree; none: the archive is refused
	}{
		{"dot dot", []tar.Header{file("../outside", "x")}, nil},
		{"dot dot within", []tar.Header{file("a/../../outside", "x")}, nil},
		{"absolute", []tar.Header{file("/outside", "x")}, []string{"outside = x"}},
		{"absolute twice", []tar.Header{file("//a//b", "x")}, []string{"a/", "a/b = x"}},
		{"write through a link up", []tar.Header{symlink("up", "../../../.."), file("up/outside", "x")},
			[]string{"outside = x", "up -> ../../../.."}},
		{"write through an absolute link", []tar.Header{symlink("abs", "OUTSIDE"), file("abs/f", "x")}, []string{}}, // see below
		{"write onto a link", []tar.Header{symlink("f", "OUTSIDE/f"), file("f", "x")}, []string{"f = x"}},
		{"directory onto a link", []tar.Header{symlink("d", "OUTSIDE"), dir("d", 0o755), file("d/f", "x")}, []string{"d/", "d/f = x"}},
		{"link onto a directory", []tar.Header{file("d/f", "x"), symlink("d", "OUTSIDE")}, []string{"d -> OUTSIDE"}},
		{"links in a circle", []tar.Header{symlink("a", "b"), symlink("b", "a"), file("a/f", "x")}, nil},
		{"link to itself by growth", []tar.Header{symlink("a", "a/a"), file("a/f", "x")}, nil},
		{"hard link up", []tar.Header{hardlink("l", "../../outside/secret")}, nil},
		{"hard link, absolute", []tar.Header{hardlink("l", "OUTSIDE/secret")}, nil},
		{"hard link through a link", []tar.Header{symlink("abs", "OUTSIDE"), hardlink("l", "abs/secret")}, nil},
		{"hard link to a link", []tar.Header{symlink("s", "OUTSIDE/secret"), hardlink("l", "s")}, []string{"l -> OUTSIDE/secret", "s -> OUTSIDE/secret"}},
		{"hard link to a directory", []tar.Header{dir("d", 0o755), hardlink("l", "d")}, nil},
		{"hard link to itself", []tar.Header{file("f", "x"), hardlink("f", "f")}, []string{"f = x"}},
		{"hard link to nothing", []tar.Header{hardlink("l", "f"), file("f", "x")}, nil},
		{"file in a file", []tar.Header{file("f", "x"), file("f/g", "y")}, nil},
		{"repeated", []tar.Header{file("f", "x"), file("f", "yy"), file("./f", "zzz")}, []string{"f = zzz"}},
		{"file, then directory", []tar.Header{file("f", "x"), dir("f", 0o755)}, []string{"f/"}},
		{"directory twice", []tar.Header{dir("d", 0o700), file("d/f", "x"), dir("d", 0o755)}, []string{"d/", "d/f = x"}},
		{"huge file", []tar.Header{huge}, nil},
		{"owner that means none", []tar.Header{owner}, nil},
		{"root is a file", []tar.Header{root}, nil},
		{"long name", []tar.Header{deep}, nil},
		{"empty", nil, nil},
		{"whiteout is a file", []tar.Header{file("a", "x"), file(".wh.a", "y")}, []string{".wh.a = y", "a = x"}},
		{"devices", []tar.Header{
			{Typeflag: tar.TypeChar, Name: "mem", Mode: 0o666, Devmajor: 1, Devminor: 1},
			{Typeflag: tar.TypeBlock, Name: "disk", Mode: 0o666, Devmajor: 8},
			{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o666},
			file("f", "x"),
		}, []string{"f = x"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			outside := t.TempDir()
			secret := filepath.Join(outside, "secret")
			if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			for i := range c.entries {
				c.entries[i].Linkname = strings.ReplaceAll(c.entries[i].Linkname, "OUTSIDE", outside)
			}
			for i := range c.want {
				c.want[i] = strings.ReplaceAll(c.want[i], "OUTSIDE", outside)
			}
			var raw []byte
			if len(c.entries) > 0 && c.entries[0].Size == huge.Size { // its content is not there
				raw = headerOnly(t, c.entries[0])
			} else {
				raw = archive(t, c.entries...)
			}
			_, err := s.Build(t.Context(), "x", save(t, "x.tar", raw), nil)
			switch {
			case c.want == nil:
				if !errors.Is(err, sandbox.ErrInvalid) {
					t.Errorf("Build: %v; want an invalid archive", err)
				}
				wantEmpty(t, s)
			case err != nil:
				t.Error(err)
			case c.name == "write through an absolute link":
				// The link means a directory within the image, which is made.
				img, err := s.Resolve("x")
				if err != nil {
					t.Fatal(err)
				}
				if b, err := os.ReadFile(filepath.Join(img.Rootfs, outside, "f")); err != nil || string(b) != "x" {
					t.Errorf("within the image: %q, %v", b, err)
				}
			default:
				wantTree(t, s, "x", c.want...)
			}
			entries, err := os.ReadDir(outside)
			if err != nil || len(entries) != 1 {
				t.Errorf("outside the image: %v, %v; want the secret only", entries, err)
			}
			info, err := os.Stat(secret)
			if err != nil || info.Size() != 6 || info.Mode() != 0o600 {
				t.Errorf("the secret was touched: %v, %v", info, err)
			}
		})
	}
}

// headerOnly is an archive that breaks off after its first header.
func headerOnly(t *testing.T, h tar.Header) []byte {
	var b bytes.Buffer
	h.ModTime = mtime
	if err := tar.NewWriter(&b).WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLimits(t *testing.T) {
	three := save(t, "three.tar", archive(t, file("a", "12345"), file("b", "12345"), file("c", "12345")))
	var padded bytes.Buffer // a whole archive, and then zeros without end
	zw := gzip.NewWriter(&padded)
	for _, b := range [][]byte{archive(t, file("a", "1")), make([]byte, 4<<20)} {
		if _, err := zw.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	bomb := save(t, "bomb.tar.gz", padded.Bytes())
	for _, c := range []struct {
		source  string
		entries int
		bytes   int64
		ok      bool
	}{
		{three, 3, 15, true},
		{three, 2, 15, false},
		{three, 3, 14, false},
		{bomb, 1024, 1 << 20, true},
		{bomb, 1, 1024, false},
	} {
		s := newStore(t)
		_, err := s.BuildLimited(t.Context(), "x", c.source, c.entries, c.bytes)
		if c.ok && err != nil || !c.ok && !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%s with %d entries of %d bytes: %v; want ok %v", c.source, c.entries, c.bytes, err, c.ok)
		}
	}
}

func TestDamagedArchives(t *testing.T) {
	whole := archive(t, file("a", strings.Repeat("aether", 5000)), file("b", "x"))
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	if _, err := zw.Write(whole); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	packed := z.Bytes()
	flipped := bytes.Clone(packed)
	flipped[len(flipped)-6] ^= 1 // in the checksum at the end
	for name, raw := range map[string][]byte{
		"no tar":       []byte(strings.Repeat("This is no archive. ", 100)),
		"cut off":      whole[:10_000],
		"gzip cut off": packed[:len(packed)/2],
		"checksum":     flipped,
		"gzip garbage": append([]byte{0x1f, 0x8b}, bytes.Repeat([]byte{7}, 600)...),
		"zstd garbage": append([]byte{0x28, 0xb5, 0x2f, 0xfd}, bytes.Repeat([]byte{7}, 600)...),
		"xz garbage":   append([]byte{0xfd, '7', 'z', 'X', 'Z', 0}, bytes.Repeat([]byte{7}, 600)...),
		"empty file":   nil,
	} {
		s := newStore(t)
		if _, err := s.Build(t.Context(), "x", save(t, "x.tar", raw), nil); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%s: %v; want an invalid archive", name, err)
		}
		wantEmpty(t, s)
	}
}
