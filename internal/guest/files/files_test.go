package files

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

func TestChunksRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, 4, 64 << 10, 64<<10 + 1, 1 << 20} {
		want := bytes.Repeat([]byte("x"), size)
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"plain": func(r io.Reader) io.Reader { return r }, "one byte": iotest.OneByteReader, "data with EOF": iotest.DataErrReader,
		} {
			got, err := io.ReadAll(Unchunk(wrap(ChunkReader(wrap(bytes.NewReader(want))))))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %s: got %d, %v", size, name, len(got), err)
			}
		}
	}
}

func TestCutOffChunksAreNoFile(t *testing.T) {
	whole, err := io.ReadAll(ChunkReader(strings.NewReader("hello")))
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if _, err := io.ReadAll(Unchunk(bytes.NewReader(whole[:n]))); !errors.Is(err, ErrTruncated) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

func FuzzUnchunk(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'x', 0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		out, _ := io.ReadAll(Unchunk(bytes.NewReader(in)))
		if len(out) > len(in) {
			t.Fatalf("%d bytes from %d", len(out), len(in))
		}
	})
}

func TestWriteIsWholeOrNothing(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	if err := Write(name, strings.NewReader("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(name, iotest.ErrReader(ErrTruncated), 0o600); !errors.Is(err, ErrTruncated) {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(name); string(got) != "old" {
		t.Errorf("content %q", got)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left: %v", entries)
	}
}

func TestWriteFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(target, nil, 0o600), os.Symlink("target", link)); err != nil {
		t.Fatal(err)
	}
	if err := Write(link, strings.NewReader("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(target); string(got) != "new" {
		t.Errorf("target holds %q", got)
	}
	if info, err := Stat(link); err != nil || info.Target != "target" {
		t.Errorf("link: %+v, %v", info, err)
	}
}

func TestFailureKeepsItsMeaning(t *testing.T) {
	for _, c := range []struct{ in, want error }{
		{fs.ErrNotExist, fs.ErrNotExist},
		{unix.ENOTDIR, fs.ErrNotExist},
		{fs.ErrPermission, fs.ErrPermission},
		{unix.EROFS, fs.ErrPermission},
		{fs.ErrExist, fs.ErrExist},
		{sandbox.ErrInvalid, sandbox.ErrInvalid},
		{unix.EISDIR, sandbox.ErrInvalid},
		{unix.ENOSPC, unix.ENOSPC},
	} {
		if err := AsFailure(c.in).Err("op", "sys", "id"); !errors.Is(err, c.want) {
			t.Errorf("%v became %v", c.in, err)
		}
	}
	if err := AsFailure(errors.New("odd")).Err("op", "sys", "id"); !strings.Contains(err.Error(), "odd") {
		t.Errorf("detail lost: %v", err)
	}
}
