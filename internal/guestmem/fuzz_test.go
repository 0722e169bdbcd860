package guestmem

import (
	"errors"
	"testing"
)

// FuzzExtents lays extents that a snapshot could name over each other, and compares the outcome, page
// by page, with doing the same to an array. What does not fit the RAM or its layer is refused.
func FuzzExtents(f *testing.F) {
	layers := []*Layer{{size: 8 * PageSize}, {size: 64 * PageSize}, {size: 3 * PageSize}, nil}
	f.Add([]byte{1, 0, 64, 0, 0, 10, 4, 2, 2, 0, 3, 0}, false)
	f.Add([]byte{0, 60, 8, 0}, false)
	f.Add([]byte{0, 0, 8, 1}, false)
	f.Add([]byte{3, 0, 1, 0}, false)
	f.Add([]byte{1, 1, 1, 0}, true)
	f.Add([]byte{1, 0, 1, 0, 1, 1, 1, 1, 1, 2, 1, 2, 1, 1, 1, 5}, false)
	type place struct {
		layer *Layer
		off   uint64
	}
	f.Fuzz(func(t *testing.T, script []byte, odd bool) {
		const pages = 64
		var want [pages]place
		var flat []Extent
		for ; len(script) >= 4; script = script[4:] {
			e := Extent{
				Layer: layers[script[0]%4], RAM: uint64(script[1]) * PageSize,
				Size: uint64(script[2]) * PageSize, Offset: uint64(script[3]) * PageSize,
			}
			if odd {
				e.RAM += uint64(script[0] >> 2)
				e.Offset -= uint64(script[0] >> 5) // also below zero
			}
			fits := e.Layer != nil && e.Size > 0 && (e.RAM|e.Size|e.Offset)%PageSize == 0 &&
				e.RAM+e.Size <= pages*PageSize && e.Offset < 1<<32 && e.Offset+e.Size <= e.Layer.size
			if err := e.check(pages * PageSize); fits != (err == nil) || err != nil && !errors.Is(err, ErrSize) {
				t.Fatalf("%+v: %v", e, err)
			}
			if !fits {
				continue
			}
			flat = overlay(flat, []Extent{e})
			for i := range e.Size / PageSize {
				want[e.RAM/PageSize+i] = place{e.Layer, e.Offset + i*PageSize}
			}
		}
		var got [pages]place
		var end uint64
		for _, e := range flat {
			if e.RAM < end || e.check(pages*PageSize) != nil {
				t.Fatalf("%v overlaps or does not fit, after %#x", e, end)
			}
			end = e.end()
			for i := range e.Size / PageSize {
				got[e.RAM/PageSize+i] = place{e.Layer, e.Offset + i*PageSize}
			}
		}
		if got != want {
			t.Fatalf("%v", flat)
		}
	})
}
