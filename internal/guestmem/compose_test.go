package guestmem

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// mappings counts what this process has mapped of memory files.
func mappings(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(raw, []byte("aether-guest-memory"))
}

// TestComposeFails: whichever piece cannot be mapped, nothing of the others stays.
func TestComposeFails(t *testing.T) {
	const size = 8 * PageSize
	a, b := frozen(t, "a", size), frozen(t, "b", size)
	closed, err := os.Open(os.DevNull)
	if err == nil {
		err = closed.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	good := func() (pieces []piece) {
		for page := uint64(0); page < 8; page++ {
			p := piece{at: page * PageSize, size: PageSize}
			switch page % 3 {
			case 0:
				p.file = a.file
			case 1:
				p.file = b.file
			}
			pieces = append(pieces, p)
		}
		return pieces
	}
	before := mappings(t)
	for i := range 8 {
		pieces := good()
		pieces[i].file = closed
		if _, err := compose(size, pieces); err == nil {
			t.Errorf("piece %d of a closed file was mapped", i)
		}
		pieces = good()
		pieces[i].file, pieces[i].offset = a.file, 1 // no page
		if _, err := compose(size, pieces); !errors.Is(err, unix.EINVAL) {
			t.Errorf("piece %d from the middle of a page: %v", i, err)
		}
		if n := mappings(t) - before; n != 0 {
			t.Fatalf("piece %d has failed and %d mappings are left", i, n)
		}
	}
	mp, err := compose(size, good())
	if err != nil {
		t.Fatal(err)
	}
	for page, want := range []byte("ab\x00ab\x00ab") {
		if got := mp.mem[page*PageSize]; got != want {
			t.Errorf("page %d holds %q, not %q", page, got, want)
		}
	}
	if err := mp.unmap(); err != nil {
		t.Error(err)
	}
}
