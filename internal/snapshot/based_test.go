package snapshot

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
)

// randomMachine is RAM that is partly in a base, at the same place there, partly in memory that is newer, and partly nowhere.
func randomMachine(r *rand.Rand, pages int) (ram []byte, base []byte, extents []Extent) {
	const some = 24
	base, upper := make([]byte, pages*PageSize), make([]byte, pages*PageSize)
	for i := range pages {
		base[i*PageSize] = byte(1 + r.IntN(200))
		if r.IntN(3) > 0 { // a page that was zeroed is to stay zero
			upper[i*PageSize+r.IntN(PageSize)] = byte(1 + r.IntN(200))
		}
	}
	ram = make([]byte, pages*PageSize)
	for at := 0; at < pages; {
		n := min(1+r.IntN(some), pages-at)
		if r.IntN(40) == 0 {
			n = min(some*some, pages-at)
		}
		from, size := uint64(at*PageSize), uint64(n*PageSize)
		switch r.IntN(5) {
		case 0: // nowhere: zeros
		case 1:
			extents = append(extents, Extent{RAM: from, Size: size, Source: bytes.NewReader(upper), Offset: from})
			copy(ram[from:], upper[from:from+size])
		default:
			extents = append(extents, Extent{RAM: from, Size: size, Source: bytes.NewReader(base), Offset: from, Based: true})
			copy(ram[from:], base[from:from+size])
		}
		at += n
	}
	return ram, base, extents
}

// What is written and what remains of the base are the whole memory, page by page, whatever lies where.
func TestBased(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		pages := 1 + r.IntN(3000)
		ram, base, extents := randomMachine(r, pages)
		if len(extents) == 0 {
			continue
		}
		w, err := Create(filepath.Join(t.TempDir(), "machine"))
		if err != nil {
			t.Fatal(err)
		}
		placed, err := w.WriteMemory(t.Context(), extents)
		if err != nil {
			if !errors.Is(err, ErrFormat) || slices.ContainsFunc(ram, func(b byte) bool { return b != 0 }) {
				t.Fatal(seed, err)
			}
			_ = w.Abort()
			continue
		}
		got, had := make([]byte, len(ram)), make([]bool, pages)
		lay := func(at, size uint64) {
			for i := at / PageSize; i < (at+size)/PageSize; i++ {
				if had[i] {
					t.Fatalf("seed %d: page %d is there twice", seed, i)
				}
				had[i] = true
			}
		}
		parts := len(placed)
		for _, p := range placed {
			lay(p.RAM, p.Size)
			if _, err := w.File().ReadAt(got[p.RAM:p.RAM+p.Size], int64(p.Offset)); err != nil {
				t.Fatal(err)
			}
		}
		for _, e := range extents {
			if !e.Based {
				continue
			}
			for _, left := range Without(e.RAM, e.Size, placed) {
				parts++
				lay(left.RAM, left.Size)
				copy(got[left.RAM:left.RAM+left.Size], base[e.Offset+left.Offset:])
			}
		}
		if !bytes.Equal(got, ram) {
			t.Errorf("seed %d: it is not what it was", seed)
		}
		if len(placed) > maxPlaced || parts > manyParts {
			t.Errorf("seed %d: %d runs, %d parts", seed, len(placed), parts)
		}
		about := exampleAbout()
		about.MemoryMiB, about.Bases = 64, [][32]byte{{1}, {2}}
		if _, err := w.Finish(about, []byte("s"), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBasesInAbout(t *testing.T) {
	about := exampleAbout()
	about.Bases = [][32]byte{{1}, {2}, {3}}
	got, err := decodeAbout(about.encode())
	if err != nil || !slices.Equal(got.Bases, about.Bases) {
		t.Errorf("%v, %v", got.Bases, err)
	}
	about.Bases = append(about.Bases, [32]byte{4})
	if _, err := decodeAbout(about.encode()); !errors.Is(err, ErrFormat) {
		t.Errorf("a base too many: %v", err)
	}
	w, err := Create(filepath.Join(t.TempDir(), "machine"))
	if err != nil {
		t.Fatal(err)
	}
	_, extents := exampleMemory()
	if _, err := w.WriteMemory(t.Context(), extents); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(about, nil, nil); err == nil {
		t.Error("a base too many was written")
	}
}

func TestCut(t *testing.T) {
	away := []run{{10, 5}, {20, 5}, {30, 10}}
	for _, c := range []struct {
		of   run
		left []run
	}{
		{run{0, 10}, []run{{0, 10}}},
		{run{0, 12}, []run{{0, 10}}},
		{run{10, 5}, nil},
		{run{11, 2}, nil},
		{run{12, 10}, []run{{15, 5}}},
		{run{0, 50}, []run{{0, 10}, {15, 5}, {25, 5}, {40, 10}}},
		{run{40, 3}, []run{{40, 3}}},
		{run{15, 5}, []run{{15, 5}}},
	} {
		if got := cut(c.of, away); !slices.Equal(got, c.left) {
			t.Errorf("%v: %v, want %v", c.of, got, c.left)
		}
	}
}
