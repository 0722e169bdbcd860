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

// TestLayersAreBounded: memory that is branched for ever keeps a bounded number of layers, and its content. Of small ones it
// keeps few.
func TestLayersAreBounded(t *testing.T) {
	t.Run("small", func(t *testing.T) {
		most := testLayersAreBounded(t, 4<<20, func(round int) (page, n int) { return (round * 37) % 1000, 1 + round%3 })
		if most > 3*fewLayers {
			t.Errorf("%d small layers", most)
		}
	})
	t.Run("large", func(t *testing.T) {
		most := testLayersAreBounded(t, 64<<20, func(round int) (page, n int) { return round * 80 % 16000, 80 })
		if most < maxLayers {
			t.Errorf("never more than %d layers: what is to be tested has not happened", most)
		}
	})
}

func testLayersAreBounded(t *testing.T, size int, written func(round int) (page, n int)) (most int) {
	p := pagemap(t)
	files := openFiles(t)
	mem, err := New(uint64(size), Options{})
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
		if err == nil {
			err = mem.Settle()
		}
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, len(image.Layers()))
		if most > maxLayers {
			t.Fatalf("round %d: %d layers", round, most)
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
		page, n := written(round)
		write(page, n, byte(round))
	}
	r.check(t, "at the end")
	if err := mem.Close(); err != nil {
		t.Error(err)
	}
	if n := openFiles(t); n != files {
		t.Errorf("%d files are open, %d before", n, files)
	}
	return most
}
