package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

// FuzzExtract unpacks what the fuzzer makes up and checks that nothing outside the root changes, and
// that what was unpacked has a canonical form that unpacks to the same.
func FuzzExtract(f *testing.F) {
	for _, headers := range [][]tar.Header{
		{{Typeflag: tar.TypeReg, Name: "f", Mode: 0o4755, Size: 3}},
		{{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o1777}, {Typeflag: tar.TypeLink, Name: "d/l", Linkname: "f"}},
		{{Typeflag: tar.TypeSymlink, Name: "up", Linkname: "../.."}, {Typeflag: tar.TypeReg, Name: "up/outside", Size: 3}},
		{{Typeflag: tar.TypeReg, Name: "../outside", Size: 3}},
		{{Typeflag: tar.TypeReg, Name: "d/f", Size: 3}, {Typeflag: tar.TypeReg, Name: "d/.wh..wh..opq"}, {Typeflag: tar.TypeReg, Name: ".wh.d"}},
		{{Typeflag: tar.TypeReg, Name: strings.Repeat("long/", 40) + "f", Size: 3, PAXRecords: map[string]string{paxCapability: "x"}}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
			if _, err := io.CopyN(w, strings.NewReader("abc"), h.Size); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes(), true)
		f.Add(b.Bytes(), false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, layer bool) {
		base := t.TempDir()
		canonical, err := extractTo(t, filepath.Join(base, "a"), raw, layer)
		entries, lsErr := os.ReadDir(base)
		if lsErr != nil || len(entries) != 1 {
			t.Fatalf("outside the root: %v, %v", entries, lsErr)
		}
		if err != nil {
			return
		}
		again, err := extractTo(t, filepath.Join(base, "b"), canonical, false)
		if err != nil {
			t.Fatalf("the canonical form is refused: %v", err)
		}
		if !bytes.Equal(canonical, again) {
			t.Fatalf("the canonical form is not stable")
		}
	})
}

// extractTo unpacks raw in a new directory and returns the canonical form of the result.
func extractTo(t *testing.T, dir string, raw []byte, layer bool) ([]byte, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	x := newExtractor(root, limits{entries: 100, bytes: 1 << 20, path: 512, links: 8})
	if err := x.apply(context.Background(), bytes.NewReader(raw), layer); err != nil {
		return nil, err
	}
	if err := x.finish(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	a := archiver{root: root, squash: !x.own}
	if err := a.write(context.Background(), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), nil
}

// FuzzDecompress checks that damaged archives give errors of the source.
func FuzzDecompress(f *testing.F) {
	for _, magic := range [][]byte{gzipMagic, zstdMagic, xzMagic} {
		f.Add(append(bytes.Clone(magic), make([]byte, 32)...))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		zr, err := decompress(bytes.NewReader(raw), false)
		if err == nil {
			_, err = io.Copy(io.Discard, io.LimitReader(zr, 1<<20))
			if cErr := zr.Close(); cErr != nil && err == nil {
				err = cErr
			}
		}
		if err != nil && !errors.Is(err, sandbox.ErrInvalid) {
			t.Fatalf("unexpected kind of error: %v", err)
		}
	})
}

// FuzzLayout reads a layout whose documents the fuzzer makes up.
func FuzzLayout(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}]}`),
		[]byte(`[{"Config":"c","Layers":["l"]}]`), []byte(`{"rootfs":{"diff_ids":["sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"]}}`))
	f.Fuzz(func(t *testing.T, index, manifest, config []byte) {
		dir := t.TempDir()
		for name, raw := range map[string][]byte{ociIndex: index, dockerManifest: manifest, "c": config} {
			if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, open := range []func(string) (*source, error){openLayout, openDockerArchive} {
			src, err := open(dir)
			if err != nil {
				if !errors.Is(err, sandbox.ErrInvalid) && !errors.Is(err, sandbox.ErrUnsupported) {
					t.Fatalf("unexpected kind of error: %v", err)
				}
				continue
			}
			if err := src.close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
