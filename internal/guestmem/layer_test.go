package guestmem

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// frozen is a layer of the given size that starts with text.
func frozen(t testing.TB, text string, size uint64) *Layer {
	t.Helper()
	m := newMemory(t, size)
	write(t, m, 0, text)
	l, err := m.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestForksAreIsolated(t *testing.T) {
	l := frozen(t, "template", 2*mib)
	fork := func() *Memory {
		m, err := Fork(l.Size(), []Extent{l.Extent()}, Options{HugePages: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Close() })
		return m
	}
	a, b := fork(), fork()
	write(t, a, 0, "A")
	write(t, b, 4, "B")
	wantAt(t, a, 0, "Aemplate")
	wantAt(t, b, 0, "tempBate")
	wantAt(t, fork(), 0, "template")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wantAt(t, b, mib, "\x00\x00") // not touched before: still readable without the layer's file
	if _, err := a.Freeze(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("freeze of a fork: %v", err)
	}
	wantAt(t, a, 0, "A")
}

func TestForkOfSeveralLayers(t *testing.T) {
	base := frozen(t, strings.Repeat("base", 4*PageSize/4), 4*PageSize)
	delta := frozen(t, strings.Repeat("DELT", 2*PageSize/4), 2*PageSize)
	m, err := Fork(6*PageSize, []Extent{
		base.Extent(),
		{RAM: 2 * PageSize, Size: PageSize, Layer: delta, Offset: PageSize},
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for page, want := range []string{"base", "base", "DELT", "base", "\x00\x00\x00\x00", "\x00\x00\x00\x00"} {
		gpa := uint64(page) * PageSize
		wantAt(t, m, gpa, want)
		wantAt(t, m, gpa+PageSize-4, want)
	}
}

func TestLayerIsSealed(t *testing.T) {
	l := frozen(t, "sealed", PageSize)
	const want = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if seals, _, err := sealsOf(l.file); err != nil || seals&want != want {
		t.Fatalf("seals %#x, %v", seals, err)
	}
	if _, err := l.file.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("write to a layer: %v", err)
	}
	if err := l.file.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncate a layer: %v", err)
	}
	if _, err := unix.Mmap(int(l.file.Fd()), 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EPERM) {
		t.Errorf("map a layer shared and writable: %v", err)
	}
	got := make([]byte, 6)
	if _, err := l.ReadAt(got, 0); err != nil || string(got) != "sealed" {
		t.Errorf("ReadAt: %q, %v", got, err)
	}
}

func TestSharedFileIsSealedAgainstResizing(t *testing.T) {
	m := newMemory(t, 2*PageSize)
	for _, size := range []int64{0, PageSize, 3 * PageSize} {
		if err := m.file.Truncate(size); !errors.Is(err, unix.EPERM) {
			t.Errorf("truncate to %d: %v", size, err)
		}
	}
}

func TestOpenLayer(t *testing.T) {
	open := func(f *os.File, err error) error {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		l, err := OpenLayer(f)
		if err == nil {
			return l.Close()
		}
		if f.Close() == nil {
			t.Error("OpenLayer failed and left the file open")
		}
		return err
	}
	onDisk := func(size int) *os.File {
		path := filepath.Join(t.TempDir(), "layer")
		if err := os.WriteFile(path, bytes.Repeat([]byte{7}, size), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if err := open(onDisk(2*PageSize), nil); err != nil {
		t.Error(err)
	}
	for _, size := range []int{0, 1, PageSize + 1} {
		if err := open(onDisk(size), nil); !errors.Is(err, ErrSize) {
			t.Errorf("file of %d bytes: %v", size, err)
		}
	}
	if err := open(os.Open(os.DevNull)); !errors.Is(err, ErrSize) {
		t.Errorf("device: %v", err)
	}
	if err := open(memfd(PageSize)); !errors.Is(err, ErrNotSealed) {
		t.Errorf("memfd that can be written: %v", err)
	}
	f, err := memfd(PageSize)
	if err == nil {
		err = addSeals(f, unix.F_SEAL_WRITE)
	}
	if err := open(f, err); err != nil {
		t.Errorf("sealed memfd: %v", err)
	}
}

func TestMemoryOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ram")
	create := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	m, err := New(4*PageSize, Options{File: create()})
	if err != nil {
		t.Fatal(err)
	}
	write(t, m, PageSize, "on disk")
	l, err := m.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fork, err := Fork(l.Size(), []Extent{l.Extent()}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fork.Close()
	wantAt(t, fork, PageSize, "on disk")
	write(t, fork, PageSize, "in fork")
	data, err := os.ReadFile(path)
	if err != nil || len(data) != 4*PageSize || string(data[PageSize:PageSize+7]) != "on disk" {
		t.Errorf("the file has %d bytes, %v", len(data), err)
	}
	f := create()
	if _, err := New(PageSize, Options{File: f}); !errors.Is(err, ErrSize) {
		t.Errorf("New on a file that is not empty: %v", err)
	}
	if f.Close() == nil {
		t.Error("New failed and left the file open")
	}
}
