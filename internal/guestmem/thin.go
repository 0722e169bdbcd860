package guestmem

import "sort"

// A run of RAM is where the image on which a new layer is laid has one source for it, a layer or zeros, or where the new
// layer has its own. Each run is a mapping in every copy. The layer can take in any run, for its size; it is joined then
// with its neighbours that are the layer's, too.

// run is a run of RAM; own says that the new layer has it in any case.
type run struct {
	span
	own bool
}

// runsOf returns the runs of RAM of size bytes when spans have been laid over lower.
func runsOf(size uint64, lower []Extent, spans []span) []run {
	extents := overlay(lower, extentsOf(countingLayer, spans))
	runs := make([]run, 0, 2*len(extents)+1)
	at := uint64(0)
	for _, e := range extents {
		if e.RAM > at {
			runs = append(runs, run{span: span{at, e.RAM}})
		}
		at = e.end()
		runs = append(runs, run{span{e.RAM, at}, e.Layer == countingLayer})
	}
	if at < size {
		runs = append(runs, run{span: span{at, size}})
	}
	return runs
}

// countingLayer stands for one that is still to be made.
var countingLayer = &Layer{}

// countExtents is how many there are when spans have covered lower.
func countExtents(lower []Extent, spans []span) int {
	return len(overlay(lower, extentsOf(countingLayer, spans)))
}

// takeIn returns what the new layer has when it takes in those runs by which the sum of the bytes that are taken in, and
// of price bytes for each run that is left, becomes least; and how many runs are left.
func takeIn(runs []run, price uint64) (spans []span, left int) {
	const never = uint64(1) << 62
	// What has been paid up to a run at least, if the image keeps it, and if the layer has it; and for each run whether the
	// one before it is the layer's then.
	keep, take := uint64(0), never
	type choice struct{ keep, take bool }
	before := make([]choice, len(runs))
	for i, r := range runs {
		alone := keep+price < take // a run of the layer begins here
		cost := min(keep+price, take)
		before[i] = choice{keep: take < keep, take: !alone}
		keep = min(keep, take) + price
		if take = cost; r.own {
			keep = never
		} else {
			take += r.end - r.start
		}
	}
	took := make([]bool, len(runs))
	last := take < keep
	for i := len(runs) - 1; i >= 0; i-- {
		took[i] = last
		if last {
			last = before[i].take
		} else {
			last = before[i].keep
		}
	}
	for i, r := range runs {
		switch {
		case !took[i]:
			left++
		case i > 0 && took[i-1]:
			spans[len(spans)-1].end = r.end
		default:
			left++
			spans = append(spans, r.span)
		}
	}
	return spans, left
}

// bridge adds to spans, which are to be laid over lower, runs between them and beside them, so that RAM of size bytes
// consists of fewer, as far as that pays for so many copies.
func bridge(size uint64, lower []Extent, spans []span, written uint64, copies int) []span {
	runs := runsOf(size, lower, spans)
	dear := cheapRun * min(max(copies, 1), dearRun/cheapRun)
	most := total(spans) + manyTimes*written + moreBytes
	// With the price rises what is taken in, and what is spared.
	pages := cheapRun + sort.Search(dear-cheapRun, func(n int) bool {
		wider, left := takeIn(runs, uint64(cheapRun+n)*PageSize)
		return left <= fewRuns || total(wider) > most
	})
	wider, left := takeIn(runs, uint64(pages)*PageSize)
	if total(wider) > most && pages > cheapRun {
		wider, left = takeIn(runs, uint64(pages-1)*PageSize)
	}
	if left > moreRuns { // too little for so much
		wider, _ = takeIn(runs, cheapRun*PageSize)
	}
	for price := uint64(2 * cheapRun * PageSize); countExtents(lower, wider) > MaxExtents; price *= 2 {
		wider, _ = takeIn(runs, price)
	}
	return wider
}
