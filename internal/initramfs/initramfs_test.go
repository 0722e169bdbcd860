package initramfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cavaliergopher/cpio"
)

func TestWrite(t *testing.T) {
	source := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(source, []byte("program"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := []File{
		{Name: "init", Mode: 0o755, Source: source},
		{Name: "lib/modules/a.ko", Mode: 0o644, Data: []byte("a")},
		{Name: "lib/modules/b.ko", Mode: 0o644, Data: bytes.Repeat([]byte("b"), 1000)},
		{Name: "empty", Mode: 0o600},
	}
	var out, again bytes.Buffer
	if err := Write(&out, files); err != nil {
		t.Fatal(err)
	}
	if err := Write(&again, files); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Errorf("the same input gives another archive (%v)", err)
	}
	type entry struct {
		name string
		mode cpio.FileMode
		data string
	}
	var got []entry
	for r := cpio.NewReader(&out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, entry{h.Name, h.Mode, string(data)})
	}
	want := []entry{
		{"init", cpio.TypeReg | 0o755, "program"},
		{"lib", cpio.TypeDir | 0o755, ""},
		{"lib/modules", cpio.TypeDir | 0o755, ""},
		{"lib/modules/a.ko", cpio.TypeReg | 0o644, "a"},
		{"lib/modules/b.ko", cpio.TypeReg | 0o644, string(bytes.Repeat([]byte("b"), 1000))},
		{"empty", cpio.TypeReg | 0o600, ""},
	}
	if !slices.Equal(got, want) {
		t.Errorf("archive holds %+v", got)
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, f := range []File{
		{Name: ""}, {Name: "/abs"}, {Name: "a/../b"}, {Name: "../up"}, {Name: "a//b"}, {Name: "."},
		{Name: "TRAILER!!!"}, {Name: "TRAILER!!!/x"}, {Name: "a\x00b"},
		{Name: "x", Source: "/no/such/file"},
	} {
		if err := Write(io.Discard, []File{f}); err == nil {
			t.Errorf("%+v was written", f)
		}
	}
}
