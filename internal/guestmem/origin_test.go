package guestmem

import (
	"bytes"
	"testing"
)

// What two forks have written is theirs, and what neither has is in the same layer of both.
func TestOwn(t *testing.T) {
	pages, err := OpenPagemap()
	if err != nil {
		t.Fatal(err)
	}
	defer pages.Close()
	m, err := New(64*PageSize, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	all := make([]byte, 9)
	if err := m.Own(pages, 0, all); err != nil || !bytes.Equal(all, []byte{255, 255, 255, 255, 255, 255, 255, 255, 0}) {
		t.Errorf("memory of nobody else: %x, %v", all, err)
	}
	if err := m.WriteAt([]byte("x"), 3*PageSize); err != nil {
		t.Fatal(err)
	}
	image, err := imageOf(m, pages)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	fork, err := image.Fork(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fork.Close()
	own := func(m *Memory, from uint64, size int) []byte {
		t.Helper()
		b := make([]byte, size)
		if err := m.Own(pages, from, b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, at := range []uint64{0, 3 * PageSize, 17 * PageSize} {
		if err := fork.WriteAt([]byte("y"), at); err != nil {
			t.Fatal(err)
		}
	}
	if got := own(fork, 0, 8); !bytes.Equal(got, []byte{1<<0 | 1<<3, 0, 1 << 1, 0, 0, 0, 0, 0}) {
		t.Errorf("the fork: %x", got)
	}
	if got := own(fork, 16*PageSize, 2); !bytes.Equal(got, []byte{1 << 1, 0}) {
		t.Errorf("a part of the fork: %x", got)
	}
	if got := own(m, 0, 8); !bytes.Equal(got, make([]byte, 8)) {
		t.Errorf("the original: %x", got)
	}
	for _, from := range []uint64{1, 65 * PageSize} {
		if err := fork.Own(pages, from, make([]byte, 1)); err == nil {
			t.Errorf("from %#x on", from)
		}
	}
	layers, extents := fork.Extents()
	theirs, _ := m.Extents()
	if len(layers) != 1 || len(extents) != 1 || len(theirs) != 1 || layers[0] != theirs[0] {
		t.Errorf("layers %v and %v, extents %v", layers, theirs, extents)
	}
}
