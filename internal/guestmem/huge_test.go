package guestmem

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestBranchOfHugePages: memory as a guest that boots has it, a layer here and there and huge pages of zeros
// between, is branched whole, again and again, while parts of it are given back.
func TestBranchOfHugePages(t *testing.T) {
	for _, noScan := range []bool{false, true} {
		p := pagemap(t)
		p.noScan = noScan
		r := rand.New(rand.NewPCG(3, 4))
		const size = 32 << 20
		file, err := memfd(8 << 20)
		if err != nil {
			t.Fatal(err)
		}
		kernel := make([]byte, 8<<20)
		for i := range kernel {
			kernel[i] = byte(i>>12) | 1
		}
		if _, err := file.WriteAt(kernel, 0); err != nil {
			t.Fatal(err)
		}
		if err := seal(file); err != nil {
			t.Fatal(err)
		}
		layer, err := OpenLayer(file)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, size)
		var extents []Extent
		for _, e := range []Extent{{RAM: 1 << 20, Size: 3 << 20, Offset: 0}, {RAM: 5 << 20, Size: 5<<20 - 3*PageSize, Offset: 3 << 20}} {
			e.Layer = layer
			extents = append(extents, e)
			copy(want[e.RAM:e.end()], kernel[e.Offset:])
		}
		first, err := NewImage(size, []*Layer{layer}, extents)
		if err != nil {
			t.Fatal(err)
		}
		mem, err := first.Fork(Options{HugePages: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		m := &related{mem: mem, want: want}
		for range 40 {
			for range 30 {
				off, n := r.IntN(size), 1+r.IntN(20*PageSize)
				n = min(n, size-off)
				fill := bytes.Repeat([]byte{byte(r.IntN(255) + 1)}, n)
				copy(m.want[off:], fill)
				if err := m.mem.WriteAt(fill, uint64(off)); err != nil {
					t.Fatal(err)
				}
			}
			for range r.IntN(4) {
				at := uint64(r.IntN(size/PageSize-600)) * PageSize
				n := uint64(1+r.IntN(600)) * PageSize
				if err := m.mem.Discard(Range{GPA: at, Size: n}); err != nil {
					t.Fatal(err)
				}
				// What is there now is what was there once; the guest does not care, but copies must agree.
				if err := m.mem.ReadAt(m.want[at:at+n], at); err != nil {
					t.Fatal(err)
				}
			}
			image, err := imageOf(m.mem, p)
			if err != nil {
				t.Fatal(err)
			}
			m.check(t, "parent")
			child, err := image.Fork(Options{})
			if err != nil {
				t.Fatal(err)
			}
			(&related{child, m.want}).check(t, "child")
			// Go on with the child now and then.
			old := child
			if r.IntN(3) == 0 {
				m.mem, old = child, m.mem
			}
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			if err := image.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.mem.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
