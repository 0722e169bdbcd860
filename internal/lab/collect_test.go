package lab

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const goodReport = `{"code":3,"boot_ns":5,"run_ns":6}` + "\n"

func makeTar(t testing.TB, members ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range members {
		if h.Typeflag == tar.TypeReg && h.Size == 0 {
			h.Size = 4
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(bytes.Repeat([]byte("x"), int(h.Size))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// openOut returns an output directory with a file beside it that nothing may reach.
func openOut(t testing.TB) (root *os.Root, outside string) {
	t.Helper()
	dir := t.TempDir()
	outside = filepath.Join(dir, "outside")
	out := filepath.Join(dir, "out")
	if err := errors.Join(os.WriteFile(outside, []byte("mine"), 0o644), os.Mkdir(out, 0o755)); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root, outside
}

func TestReadReport(t *testing.T) {
	root, outside := openOut(t)
	data := append([]byte(goodReport), makeTar(t,
		tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o4751},
		tar.Header{Name: "up", Typeflag: tar.TypeSymlink, Linkname: outside},
		tar.Header{Name: "up", Typeflag: tar.TypeReg, Mode: 0o644}, // replaces the link, does not follow it
	)...)
	for range 2 { // over what is there already
		r, err := readReport(bytes.NewReader(data), root, 1<<20)
		if err != nil || r.Code != 3 || r.Boot != 5 || r.Run != 6 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if info, err := root.Stat("d/f"); err != nil || info.Size() != 4 || info.Mode() != 0o751 {
		t.Errorf("d/f: %v, %v", info, err)
	}
	if text, err := os.ReadFile(outside); err != nil || string(text) != "mine" {
		t.Errorf("outside: %q, %v", text, err)
	}
}

func TestReadReportRefuses(t *testing.T) {
	report := func(members ...tar.Header) []byte { return append([]byte(goodReport), makeTar(t, members...)...) }
	for name, data := range map[string][]byte{
		"nothing":        nil,
		"half a line":    []byte(`{"code":`),
		"no JSON":        []byte("x\n"),
		"too long":       []byte(strings.Repeat(" ", maxReport+1) + "\n"),
		"code":           []byte(`{"code":256}` + "\n"),
		"negative time":  []byte(`{"run_ns":-1}` + "\n"),
		"no tar":         []byte(goodReport + strings.Repeat("x", 1024)),
		"absolute":       report(tar.Header{Name: "/f", Typeflag: tar.TypeReg}),
		"parent":         report(tar.Header{Name: "../outside", Typeflag: tar.TypeReg}),
		"device":         report(tar.Header{Name: "dev", Typeflag: tar.TypeBlock}),
		"through a link": report(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, tar.Header{Name: "l/outside", Typeflag: tar.TypeReg}),
		"too large":      report(tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: 2 << 20}),
		"cut":            report(tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: 4096})[:len(goodReport)+1024],
	} {
		root, outside := openOut(t)
		if _, err := readReport(bytes.NewReader(data), root, 1<<20); err == nil {
			t.Errorf("%s: accepted", name)
		} else if name == "nothing" && !errors.Is(err, errNoReport) {
			t.Errorf("%s: %v", name, err)
		}
		if text, err := os.ReadFile(outside); err != nil || string(text) != "mine" {
			t.Errorf("%s: outside is %q, %v", name, text, err)
		}
	}
}

func FuzzReadReport(f *testing.F) {
	f.Add([]byte(goodReport))
	f.Add(append([]byte(goodReport), makeTar(f,
		tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o644},
		tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../.."}, tar.Header{Name: "l/outside", Typeflag: tar.TypeReg})...))
	f.Fuzz(func(t *testing.T, data []byte) {
		root, outside := openOut(t)
		const limit = 1 << 20
		_, _ = readReport(bytes.NewReader(data), root, limit)
		if text, err := os.ReadFile(outside); err != nil || string(text) != "mine" {
			t.Fatalf("outside is %q, %v", text, err)
		}
		entries, err := os.ReadDir(filepath.Dir(outside))
		if err != nil || len(entries) != 2 {
			t.Fatalf("beside the output directory: %v, %v", entries, err)
		}
		var total int64
		err = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil //nolint:nilerr // a name that os.Root refuses to list
			}
			info, err := d.Info()
			if err == nil {
				total += info.Size()
			}
			return nil
		})
		if err != nil || total > limit {
			t.Fatalf("%d bytes were written, %v", total, err)
		}
	})
}
