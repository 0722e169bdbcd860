package guestmem

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// What a copy costs beside its first touches is mappings, a few microseconds each to make and to free (BenchmarkForkExtents), and
// layers, an open file each. A guest writes what is scattered over its RAM, mostly the same pages in each generation. So
// a new layer takes in what lies between its runs, and small layers below it.

// MaxExtents bounds the extents of an image, whatever has to be copied for it. A process may have 65,530 mappings
// (vm.max_map_count).
const MaxExtents = 8192

// maxMapped bounds the runs of layers that a memory is mapped from, which with what lies between are twice as many mappings.
const maxMapped = 2 * MaxExtents

const (
	// nearGap is the gap between written pages that is copied while the guest stands still: to map the layer in two
	// places takes as long.
	nearGap = 4 * PageSize
	// joinedGap is the gap that is always filled. What is in it is copied once, and spares each copy two mappings.
	joinedGap = 16 * PageSize
	// widestGap is the gap that is filled at most where an image would have more than fewExtents, if that makes it so many and
	// the layer no larger than moreBytes and four times what it is for.
	widestGap  = 64 * PageSize
	fewExtents = 256
	moreBytes  = 8 << 20

	// fewLayers is how many layers there are below the new one when it takes in the small ones: from the smallest one up those
	// with no more than twice as much as it has by then, and together no more than was written, or a smallPart of RAM. So a
	// page is copied a number of times that grows with the logarithm of the number of branches, and so does the number of
	// layers, but for some that together have most of RAM.
	fewLayers = 4
	smallPart = 16
)

// small returns the runs of the layers of an image that the layer on top, to which so many bytes were written, takes in.
func (i *Image) small(top *Layer, written uint64) (spans []span) {
	live := map[*Layer]uint64{}
	for _, e := range i.extents {
		if e.Layer != top {
			live[e.Layer] += e.Size
		}
	}
	if len(live) < fewLayers {
		return nil
	}
	taken, sum, most := map[*Layer]bool{}, uint64(0), max(written, i.size/smallPart)
	for _, l := range slices.SortedFunc(maps.Keys(live), func(x, y *Layer) int { return cmp.Compare(live[x], live[y]) }) {
		if live[l] > 2*(written+sum) || sum+live[l] > most {
			break
		}
		sum += live[l]
		taken[l] = true
	}
	for _, e := range i.extents {
		if taken[e.Layer] {
			spans = appendSpan(spans, span{e.RAM, e.end()})
		}
	}
	return spans
}

// bridge fills gaps between runs that are to be laid over lower.
func bridge(lower []Extent, spans []span) []span {
	most := 4*total(spans) + moreBytes
	spans = joinGaps(spans, joinedGap)
	n := countExtents(lower, spans)
	if n <= fewExtents {
		return spans
	}
	for gap := uint64(joinedGap); gap < widestGap; {
		gap = min(gap+gap/4/PageSize*PageSize, widestGap)
		wider := joinGaps(spans, gap)
		if total(wider) > most {
			break
		}
		if countExtents(lower, wider) <= fewExtents {
			return wider
		}
	}
	for gap := uint64(widestGap); n > MaxExtents; gap *= 2 {
		spans = joinGaps(spans, gap)
		if len(spans) == 1 { // there is nothing to join it to but its neighbours
			last := lower[len(lower)-1].end()
			spans[0].start -= min(gap, spans[0].start)
			spans[0].end = max(spans[0].end, min(spans[0].end+gap, last))
		}
		n = countExtents(lower, spans)
	}
	return spans
}

// countExtents is how many there are when spans have covered lower.
func countExtents(lower []Extent, spans []span) int {
	return len(overlay(lower, extentsOf(countingLayer, spans)))
}

// countingLayer stands for one that is still to be made.
var countingLayer = &Layer{}

// allocate gives runs of a layer memory. In a hole a private mapping would get a page of the file, which nobody has counted, and
// another one of its own for what it writes.
func allocate(file *os.File, spans []span) error {
	return control(file, func(fd int) error {
		for _, s := range spans {
			if err := unix.Fallocate(fd, 0, int64(s.start), int64(s.end-s.start)); err != nil {
				return fmt.Errorf("allocate a layer of guest memory: %w", err)
			}
		}
		return nil
	})
}

// copyTo writes runs of the image to a file, each where RAM has it. What no layer has is left as it is.
func (i *Image) copyTo(file *os.File, spans []span) error {
	var buf []byte
	for _, e := range within(i.extents, spans) {
		if buf == nil {
			buf = make([]byte, joinedGap)
		}
		to := io.NewOffsetWriter(file, int64(e.RAM))
		from := io.NewSectionReader(e.Layer, int64(e.Offset), int64(e.Size))
		if _, err := io.CopyBuffer(to, from, buf); err != nil {
			return fmt.Errorf("copy a layer of guest memory: %w", err)
		}
	}
	return nil
}

// spans are the runs of RAM that are in layers.
func (i *Image) spans() (spans []span) {
	for _, e := range i.extents {
		spans = appendSpan(spans, span{e.RAM, e.end()})
	}
	return spans
}

// writeAll has the kernel copy straight from the guest's memory.
func writeAll(file *os.File, p []byte, off int64) error {
	if _, err := file.WriteAt(p, off); err != nil {
		return fmt.Errorf("copy guest memory to a layer: %w", err)
	}
	return nil
}
