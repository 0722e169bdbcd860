package guestmem

import (
	"bytes"
	"errors"
	"math"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDiscard(t *testing.T) {
	m, err := New(8*PageSize, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	before := blocks(t, m.file)
	page := bytes.Repeat([]byte{7}, PageSize)
	for i := range uint64(8) {
		if err := m.WriteAt(page, i*PageSize); err != nil {
			t.Fatal(err)
		}
	}
	full := blocks(t, m.file)
	if err := m.Discard(Range{GPA: 2 * PageSize, Size: 3 * PageSize}); err != nil {
		t.Fatal(err)
	}
	if n := (full - blocks(t, m.file)) * 512; before != 0 || n != 3*PageSize {
		t.Errorf("%d bytes were given back", n)
	}
	for i := range uint64(8) {
		got := make([]byte, PageSize)
		if err := m.ReadAt(got, i*PageSize); err != nil {
			t.Fatal(err)
		}
		want := page
		if i >= 2 && i < 5 {
			want = make([]byte, PageSize)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("page %d holds %d", i, got[0])
		}
	}
}

func blocks(t *testing.T, f *os.File) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

// What a fork discards is its own copy; the layer is what it then sees.
func TestDiscardFork(t *testing.T) {
	parent, err := New(4*PageSize, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.WriteAt([]byte("old"), PageSize); err != nil {
		t.Fatal(err)
	}
	layer, err := parent.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	defer layer.Close()
	fork, err := Fork(4*PageSize, []Extent{{Size: 2 * PageSize, Layer: layer}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fork.Close()
	for _, page := range []uint64{1, 3} {
		if err := fork.WriteAt([]byte("new"), page*PageSize); err != nil {
			t.Fatal(err)
		}
	}
	if err := fork.Discard(Range{Size: 4 * PageSize}); err != nil {
		t.Fatal(err)
	}
	for page, want := range map[uint64]string{1: "old", 3: "\x00\x00\x00"} {
		var got [3]byte
		if err := fork.ReadAt(got[:], page*PageSize); err != nil {
			t.Fatal(err)
		}
		if string(got[:]) != want {
			t.Errorf("page %d reads %q, not %q", page, got, want)
		}
	}
}

func TestDiscardRefuses(t *testing.T) {
	m, err := New(4*PageSize, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		r    Range
		want error
	}{
		{Range{}, ErrSize},
		{Range{GPA: 1, Size: PageSize}, ErrSize},
		{Range{Size: 100}, ErrSize},
		{Range{Size: 5 * PageSize}, ErrOutOfRange},
		{Range{GPA: 4 * PageSize, Size: PageSize}, ErrOutOfRange},
		{Range{GPA: HoleStart, Size: PageSize}, ErrOutOfRange},
		{Range{GPA: math.MaxUint64 - PageSize + 1, Size: 2 * PageSize}, ErrOutOfRange},
	} {
		if err := m.Discard(c.r); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c.r, err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Discard(Range{Size: PageSize}); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
