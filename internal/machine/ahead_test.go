package machine

import (
	"testing"
	"time"

	"github.com/aethervm/aether/internal/guestmem"
)

func TestPlace(t *testing.T) {
	ranges := []guestmem.Range{{GPA: 0, Size: 3 << 30}, {GPA: 4 << 30, Size: 1 << 30}}
	for _, c := range []struct{ ram, size, gpa, n uint64 }{
		{0, 4096, 0, 4096},
		{3<<30 - 4096, 8192, 3<<30 - 4096, 4096},
		{3 << 30, 8192, 4 << 30, 8192},
		{4<<30 - 4096, 8192, 5<<30 - 4096, 4096},
		{4 << 30, 4096, 0, 0},
	} {
		if gpa, n := place(ranges, c.ram, c.size); gpa != c.gpa || n != c.n {
			t.Errorf("%d bytes at %#x: %d at %#x, not %d at %#x", c.size, c.ram, n, gpa, c.n, c.gpa)
		}
	}
}

// TestMapAhead: a copy goes on right, and at once, whatever is mapped ahead of it, and whenever it is resumed or closed.
func TestMapAhead(t *testing.T) {
	f := newFamily(t)
	m := startAreas(t, f, 1)
	areaTurn(t, m, true, 1)
	areasRun(t, m)
	image, s := f.branch(t, m)
	list := []guestmem.Touched{
		{RAM: 0, Size: areaMemory, Written: true},
		{RAM: areaMemory - guestmem.PageSize, Size: 4 * guestmem.PageSize}, // ends outside of RAM
		{RAM: 1 << 50, Size: guestmem.PageSize},
	}
	for round := range testRounds(t) {
		one := f.areaCopy(t, image, s, false, 0)
		one.mem.Prefetch(list[:1])
		over := make(chan struct{})
		go func() {
			defer close(over)
			one.MapAhead(list)
		}()
		time.Sleep(time.Duration(round) * 50 * time.Microsecond)
		if round%4 == 3 {
			if err := one.Close(); err != nil {
				t.Fatal(err)
			}
		} else {
			areasRun(t, one)
			if n := areaCount(t, one, 0, areaChanges); n != 0 {
				t.Fatalf("the copy has seen %d changes", n)
			}
		}
		select {
		case <-over:
		case <-time.After(endTimeout):
			t.Fatal("it does not come to an end")
		}
	}
}
