package guestmem

import (
	"errors"
	"testing"
)

// What was written and is again as it was is the layer's again; what differs, and what no layer has, stays.
func TestGiveBack(t *testing.T) {
	for _, noScan := range []bool{false, true} {
		p := pagemap(t)
		p.noScan = noScan
		m := newMemory(t, 64*mib)
		if given, err := m.GiveBack(p); err != nil || given != 0 {
			t.Errorf("memory without a layer has given back %d bytes, %v", given, err)
		}
		const pages = 100 // more than are compared at a time
		for page := uint64(10); page < 10+pages; page++ {
			write(t, m, page*PageSize, "as it was")
		}
		child, err := branch(t, m, p).Fork(Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer child.Close()
		for page := uint64(10); page < 10+pages; page++ {
			write(t, child, page*PageSize, "another ")
			write(t, child, page*PageSize, "as it was")
		}
		write(t, child, 30*PageSize, "changed")
		write(t, child, 70*PageSize+PageSize-3, "end")
		if given, err := child.GiveBack(p); err != nil || given != (pages-2)*PageSize {
			t.Errorf("it has given back %d bytes, not %d; %v", given, (pages-2)*PageSize, err)
		}
		if given, err := child.GiveBack(p); err != nil || given != 0 {
			t.Errorf("again: %d bytes, %v", given, err)
		}
		for page, want := range map[uint64]string{10: "as it was", 30: "changed", 109: "as it was"} {
			wantAt(t, child, page*PageSize, want)
		}
		wantAt(t, child, 71*PageSize-3, "end")
		written, err := p.written(child.mapping)
		if err != nil || total(written) != 2*PageSize {
			t.Errorf("it has %d bytes of its own, %v", total(written), err)
		}
		write(t, child, 10*PageSize, "changed")
		wantAt(t, m, 10*PageSize, "as it was")
	}
}

// Small layers are taken in by newer ones, and closed, while the memory is mapped from them: what it has there stays its own until the next
// Split.
func TestGiveBackOfOldLayers(t *testing.T) {
	p := pagemap(t)
	m := newMemory(t, 64*mib)
	for generation := range uint64(10) {
		page := func(of, n uint64) uint64 { return (of*1000 + n*40) * PageSize }
		for n := range uint64(20) {
			write(t, m, page(generation, n), string(rune('a'+generation)))
		}
		if err := branch(t, m, p).Close(); err != nil {
			t.Fatal(err)
		}
		if err := m.Settle(); err != nil {
			t.Fatal(err)
		}
		for of := range generation + 1 {
			for n := range uint64(20) {
				write(t, m, page(of, n), "x")
				write(t, m, page(of, n), string(rune('a'+of)))
			}
		}
		given, err := m.GiveBack(p)
		if err != nil || given < 20*PageSize {
			t.Errorf("generation %d: it has given back %d bytes, %v", generation, given, err)
		}
		for of := range generation + 1 {
			for n := range uint64(20) {
				wantAt(t, m, page(of, n), string(rune('a'+of)))
			}
		}
	}
}

func TestGiveBackClosed(t *testing.T) {
	m := newMemory(t, 64*mib)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.GiveBack(pagemap(t)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}
