package initramfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"testing"

	"github.com/cavaliergopher/cpio"
)

// FuzzWrite writes files of any name and reads the archive back: all of them are there, in
// directories that come before them, and nothing leads out of the root.
func FuzzWrite(f *testing.F) {
	f.Add("init", "lib/modules/a.ko", []byte("data"))
	f.Add("../x", "/x", []byte{})
	f.Add("a", "a/b", []byte("x"))
	f.Add("TRAILER!!!", "b", []byte("x"))
	f.Add("a\x00b", ".", []byte("x"))
	f.Fuzz(func(t *testing.T, first, second string, data []byte) {
		files := []File{{Name: first, Mode: 0o644, Data: data}, {Name: second, Mode: os.ModeSetuid | 0o755, Data: data}}
		var out bytes.Buffer
		if err := Write(&out, files); err != nil {
			return
		}
		made := map[string]bool{".": true}
		var names []string
		for r := cpio.NewReader(&out); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%q, %q: %v", first, second, err)
			}
			if path.IsAbs(h.Name) || path.Clean("/"+h.Name) != "/"+h.Name || !made[path.Dir(h.Name)] {
				t.Fatalf("name %q", h.Name)
			}
			if h.Mode&cpio.TypeDir != 0 && h.Mode&cpio.TypeReg != cpio.TypeReg {
				made[h.Name] = true
				continue
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%q: %d bytes, %v", h.Name, len(got), err)
			}
			names = append(names, h.Name)
		}
		if len(names) != 2 || names[0] != first || names[1] != second {
			t.Fatalf("%q, want %q and %q", names, first, second)
		}
	})
}
