package guestmem

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestRunsOf(t *testing.T) {
	l := &Layer{size: 20}
	lower := []Extent{{RAM: 2, Size: 8, Layer: l, Offset: 2}, {RAM: 14, Size: 2, Layer: l, Offset: 14}}
	got := runsOf(20, lower, []span{{4, 5}, {9, 15}})
	want := []run{
		{span{0, 2}, false}, {span{2, 4}, false}, {span{4, 5}, true}, {span{5, 9}, false}, {span{9, 15}, true},
		{span{15, 16}, false}, {span{16, 20}, false},
	}
	if !slices.Equal(got, want) {
		t.Errorf("the runs are %v, not %v", got, want)
	}
}

// TestTakeIn compares with all that could be taken in.
func TestTakeIn(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 3000 {
		var runs []run
		at := uint64(0)
		for range 1 + r.IntN(10) {
			n := 1 + r.Uint64N(20)
			own := r.IntN(3) == 0 && (len(runs) == 0 || !runs[len(runs)-1].own) // neighbours that are its own are one
			runs = append(runs, run{span{at, at + n}, own})
			at += n
		}
		price := r.Uint64N(30)
		sum := func(took func(i int) bool) (bytes uint64, left int) {
			for i, one := range runs {
				if took(i) && !one.own {
					bytes += one.end - one.start
				}
				if !took(i) || i == 0 || !took(i-1) {
					left++
				}
			}
			return bytes, left
		}
		least := ^uint64(0)
		for set := range 1 << len(runs) {
			took := func(i int) bool { return set>>i&1 == 1 || runs[i].own }
			bytes, left := sum(took)
			least = min(least, bytes+price*uint64(left))
		}
		spans, left := takeIn(runs, price)
		took := func(i int) bool {
			return slices.ContainsFunc(spans, func(s span) bool { return s.start <= runs[i].start && runs[i].end <= s.end })
		}
		for i, one := range runs {
			if one.own && !took(i) {
				t.Fatalf("round %d: run %d of %v is missing in %v", round, i, runs, spans)
			}
		}
		bytes, n := sum(took)
		if got := bytes + price*uint64(n); got != least || n != left {
			t.Fatalf("round %d: price %d, %v: %v costs %d and leaves %d runs (it says %d), possible is %d", round, price, runs, spans, got, n, left, least)
		}
	}
}

// scattered is what a guest has written: a number of runs of a few pages, in so many places of RAM.
func scattered(r *rand.Rand, size uint64, runs, places int) (spans []span) {
	const wide = 100 // pages
	var starts []uint64
	for range places {
		starts = append(starts, r.Uint64N(size/PageSize-wide-2))
	}
	for range runs {
		at := (starts[r.IntN(places)] + r.Uint64N(wide)) * PageSize
		spans = append(spans, span{at, at + (1+r.Uint64N(3))*PageSize})
	}
	return union(spans, nil)
}

func TestBridgeIsBounded(t *testing.T) {
	const size = 256 * mib
	l := &Layer{size: size}
	base := []Extent{l.Extent()}
	r := rand.New(rand.NewPCG(3, 4))
	for _, test := range []struct {
		runs, places int
		few          bool // there are as few runs as there should be
	}{
		{1, 1, true}, {40, 40, true}, {300, 30, true}, {300, 300, false}, {3000, 100, false}, {30000, 1000, false}, {60000, 60000, false},
	} {
		t.Run(fmt.Sprintf("runs=%d,places=%d", test.runs, test.places), func(t *testing.T) {
			written := scattered(r, size, test.runs, test.places)
			bytes := total(written)
			spans := bridge(size, base, written, bytes, dearRun/cheapRun)
			if left := subtract(written, spans); len(left) > 0 {
				t.Errorf("%v are missing", left)
			}
			// Cheap are at most two runs for one that is written.
			if most := max(manyTimes*bytes+moreBytes, uint64(2*len(written)*cheapRun*PageSize)); total(spans)-bytes > most {
				t.Errorf("%d bytes are added to %d, not %d", total(spans)-bytes, bytes, most)
			}
			n := len(runsOf(size, base, spans))
			if test.few && n > fewRuns || countExtents(base, spans) > MaxExtents {
				t.Errorf("%d runs", n)
			}
		})
	}
}

// TestBridgePaysForCopies: the more copies there are to be, the more is copied once, and the fewer mappings each has.
func TestBridgePaysForCopies(t *testing.T) {
	const size = 256 * mib
	l := &Layer{size: size}
	base := []Extent{l.Extent()}
	written := scattered(rand.New(rand.NewPCG(5, 6)), size, 400, 120)
	copied, runs := uint64(0), len(written)*3
	for copies := range 20 {
		spans := bridge(size, base, written, total(written), copies)
		n := len(runsOf(size, base, spans))
		if total(spans) < copied || n > runs {
			t.Errorf("for %d copies: %d runs, %d bytes; for fewer %d and %d", copies, n, total(spans), runs, copied)
		}
		copied, runs = total(spans), n
	}
	once := bridge(size, base, written, total(written), 1)
	if total(once) >= copied || len(runsOf(size, base, once)) <= runs {
		t.Errorf("one copy has %d runs of %d bytes, each of many %d of %d", len(runsOf(size, base, once)), total(once), runs, copied)
	}
}

// mostOfLayer is the most that a layer has, in bytes, of a memory of a size that has written so much: that, small layers, and what is
// taken in beside them.
func mostOfLayer(written, size uint64) uint64 {
	return written + max(written, size/smallPart) + manyTimes*written + moreBytes
}

// TestRunsAreBounded: each generation writes mostly what the one before it has written, as guests do.
func TestRunsAreBounded(t *testing.T) {
	p := pagemap(t)
	const size = 64 * mib
	r := rand.New(rand.NewPCG(5, 6))
	image := branch(t, newMemory(t, size), p)
	want := make([]byte, size)
	hot := scattered(r, size, 300, 40)
	var written, added uint64
	for generation := range 50 {
		m, err := image.Fork(Options{})
		if err != nil {
			t.Fatal(err)
		}
		var spans []span
		for _, s := range hot {
			if r.IntN(4) > 0 {
				spans = append(spans, s)
			}
		}
		for _, s := range union(spans, scattered(r, size, 5, 5)) {
			for at := s.start; at < s.end; at += PageSize {
				want[at] = byte(generation + 1)
				write(t, m, at, string(want[at:at+1]))
			}
		}
		if err := m.Split(p); err != nil {
			t.Fatal(err)
		}
		now := total(m.split.written)
		next, err := m.Image(dearRun / cheapRun)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(runsOf(size, next.extents, nil)); n > moreRuns {
			t.Errorf("generation %d: %d runs", generation, n)
		}
		top := uint64(allocated(t, next.Layers()[len(next.Layers())-1]))
		// What small layers had is taken in first.
		if most := mostOfLayer(now, size); top > most {
			t.Errorf("generation %d: the layer has %d bytes, %d were written", generation, top, now)
		}
		written, added = written+now, added+top-now
		if generation%10 == 9 {
			if !bytes.Equal(m.regions[0].Mem, want) {
				t.Fatalf("generation %d is not what was written", generation)
			}
			copied, err := next.Fork(Options{})
			if err != nil {
				t.Fatal(err)
			}
			(&related{copied, want}).check(t, fmt.Sprintf("copy of generation %d", generation))
			if err := copied.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := image.Close(); err != nil {
			t.Error(err)
		}
		image = next
	}
	if err := image.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("%d KiB written by a generation, %d KiB added", written/50>>10, added/50>>10)
	if added > manyTimes*written {
		t.Errorf("%d bytes were added to %d", added, written)
	}
}

// TestOnePageCostsLittle: who writes one page does not pay each time for how scattered the image is.
func TestOnePageCostsLittle(t *testing.T) {
	p := pagemap(t)
	const size, rounds = 256 * mib, 64
	m := newMemory(t, size)
	branch(t, m, p)
	for page := uint64(0); page < size/PageSize; page += 100 {
		write(t, m, page*PageSize, "x")
	}
	branch(t, m, p)
	r := rand.New(rand.NewPCG(7, 8))
	var sum int64
	for range rounds {
		write(t, m, r.Uint64N(size/PageSize)*PageSize, "y")
		image := branch(t, m, p)
		n := allocated(t, image.Layers()[len(image.Layers())-1])
		sum += n
	}
	t.Logf("%d KiB for a page", sum/rounds>>10)
	if sum/rounds > 1<<20 {
		t.Errorf("%d bytes for a page", sum/rounds)
	}
}
