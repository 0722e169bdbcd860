package guestmem

import (
	"cmp"
	"errors"
	"fmt"
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
	// cheapRun is how many pages are copied to spare one copy a mapping: that takes about as long.
	cheapRun = 8
	// Where RAM would consist of more than fewRuns runs, and there are to be several copies, more are copied until it does not, up
	// to cheapRun for each mapping of each copy, dearRun at most, and no more than moreBytes and manyTimes what was written; unless
	// there would be more than moreRuns all the same.
	fewRuns   = 64
	moreRuns  = 256
	dearRun   = 128
	manyTimes = 8
	moreBytes = 256 << 10

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
func (i *Image) copyTo(file *os.File, spans []span) (err error) {
	views := map[*Layer]*view{}
	defer func() {
		for _, v := range views {
			err = errors.Join(err, v.close())
		}
	}()
	for _, e := range within(i.extents, spans) {
		v := views[e.Layer]
		if v == nil {
			if v, err = e.Layer.view(); err != nil {
				return fmt.Errorf("copy a layer of guest memory: %w", err)
			}
			views[e.Layer] = v
		}
		if err := writeAll(file, v.mem[e.Offset:e.Offset+e.Size], int64(e.RAM)); err != nil {
			return err
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
