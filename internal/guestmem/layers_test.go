package guestmem

import (
	"bytes"
	"slices"
	"testing"
)

func TestUnion(t *testing.T) {
	got := union([]span{{0, 2}, {4, 6}, {10, 12}}, []span{{1, 5}, {7, 8}, {12, 14}})
	if want := []span{{0, 6}, {7, 8}, {10, 14}}; !slices.Equal(got, want) {
		t.Errorf("got %v, not %v", got, want)
	}
}

// TestLayersAreBounded: memory that is branched for ever keeps a bounded number of layers, and its content.
func TestLayersAreBounded(t *testing.T) {
	p := pagemap(t)
	const size = 4 << 20
	files := openFiles(t)
	mem, err := New(size, Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := &related{mem: mem, want: make([]byte, size)}
	write := func(page, n int, v byte) {
		fill := bytes.Repeat([]byte{v}, n*PageSize)
		copy(r.want[page*PageSize:], fill)
		if err := mem.WriteAt(fill, uint64(page*PageSize)); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 1000, 1)
	for round := range 3 * maxLayers {
		image, err := mem.Branch(p)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(image.Layers()); n > maxLayers {
			t.Fatalf("round %d: %d layers", round, n)
		}
		child, err := image.Fork(Options{})
		if err != nil {
			t.Fatal(err)
		}
		if round%10 == 0 {
			(&related{child, r.want}).check(t, "child")
			r.check(t, "parent")
		}
		if err := child.Close(); err != nil {
			t.Error(err)
		}
		if err := image.Close(); err != nil {
			t.Error(err)
		}
		write((round*37)%1000, 1+round%3, byte(round))
	}
	r.check(t, "at the end")
	if err := mem.Close(); err != nil {
		t.Error(err)
	}
	if n := openFiles(t); n != files {
		t.Errorf("%d files are open, %d before", n, files)
	}
}
