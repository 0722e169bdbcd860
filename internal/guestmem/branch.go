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

// maxExtents bounds the extents of an image. Each is a mapping in every fork, which takes a few
// microseconds to make and to free (BenchmarkForkExtents), and a process may have 65,530 (vm.max_map_count).
const maxExtents = 1024

// moreExtents is how many a branch may add in any case.
const moreExtents = 32

// maxLayers bounds the layers of an image. Each is an open file in every process that has the image. A branch that
// would make one more takes the small ones together.
const maxLayers = 100

// fewLayers is how many layers an image has at least before small ones are taken together: each costs every copy the time of a
// system call or two. crumbSize is what that may add to a branch, in bytes, or an eighth of what the branch copies anyway.
const (
	fewLayers = 8
	crumbSize = 64 * PageSize
)

// Branch makes an image of what the memory holds now, and has the memory go on from it: what is
// written afterwards is not in the image. It costs the pages written since the memory's own birth, or
// since the last Branch, never its size.
//
// Nobody may write to the memory meanwhile: the VM and all devices are paused. Slices of guest memory
// and memslots remain valid. When it fails, the memory is as it was. Settle is to follow when the VM goes on.
func (m *Memory) Branch(p *Pagemap) (*Image, error) {
	if err := m.Acquire(); err != nil {
		return nil, fmt.Errorf("branch guest memory: %w", err)
	}
	defer m.Release()
	var err error
	if m.file != nil {
		err = m.sealOwn()
	} else {
		err = m.sealWritten(p)
	}
	if err != nil {
		return nil, fmt.Errorf("branch guest memory: %w", err)
	}
	return m.image.hold(), nil
}

// sealOwn makes a layer of the memory file of New, and this memory a fork of it.
func (m *Memory) sealOwn() error {
	size := m.Size()
	// No writable shared mapping may be left when the file is sealed. What is mapped instead, at the
	// same place, has the same content.
	if err := m.mapping.file(0, size, m.file, 0, unix.MAP_PRIVATE); err != nil {
		return err
	}
	if err := seal(m.file); err != nil {
		return errors.Join(err, m.mapping.file(0, size, m.file, 0, unix.MAP_SHARED))
	}
	l := &Layer{file: m.file, size: size}
	m.file, m.image = nil, holdImage(size, []*layerRef{newLayerRef(l)}, []Extent{l.Extent()})
	return nil
}

// sealWritten moves the pages that a fork has written to a layer of their own.
func (m *Memory) sealWritten(p *Pagemap) error {
	if m.image == nil {
		return fmt.Errorf("%w: memory of layers that no image holds", errors.ErrUnsupported)
	}
	spans, err := p.written(m.mapping)
	if err != nil || len(spans) == 0 {
		return err
	}
	switch n := len(m.image.refs); {
	case n >= maxLayers:
		spans = union(spans, m.image.scattered())
	case n >= fewLayers:
		spans = union(spans, m.image.crumbs(max(crumbSize, total(spans)/8)))
	}
	// What there is already, of a file with more runs, is no reason to copy what lies in between.
	spans = bridge(m.image.extents, spans, max(maxExtents, len(m.image.extents)+moreExtents))
	layer, extents, err := m.copyOut(spans)
	if err != nil {
		return err
	}
	old := m.image
	m.image = holdImage(old.size, append(slices.Clone(old.refs), newLayerRef(layer)), overlay(old.extents, extents))
	// From here on nothing can go wrong. A page that is not given back is still this memory's own, of
	// the same content, and will be taken for a written one the next time.
	for _, e := range extents {
		if layer.mapInto(m.mapping, e) != nil {
			break // out of mappings
		}
	}
	m.leftMu.Lock()
	m.left = append(m.left, old)
	m.leftMu.Unlock()
	return nil
}

// Settle frees the layers that branches have left without a user, which takes about a seventh of the time that it took
// to make them, and for which no guest needs to stand still. Until then, or until Close, they take memory.
func (m *Memory) Settle() error {
	if m.Acquire() != nil {
		return nil // closed, which has done it
	}
	defer m.Release()
	return m.closeLeft()
}

func (m *Memory) closeLeft() error {
	m.leftMu.Lock()
	left := m.left
	m.left = nil
	m.leftMu.Unlock()
	var errs []error
	for _, i := range left {
		errs = append(errs, i.Close())
	}
	return errors.Join(errs...)
}

// crumbs returns the runs of RAM that are in the smallest layers, as many of them as have no more than so many bytes
// together, ascending. One alone is no gain.
func (i *Image) crumbs(budget uint64) (spans []span) {
	live := map[*Layer]uint64{}
	for _, e := range i.extents {
		live[e.Layer] += e.Size
	}
	layers := slices.SortedFunc(maps.Keys(live), func(x, y *Layer) int { return cmp.Compare(live[x], live[y]) })
	small, sum := map[*Layer]bool{}, uint64(0)
	for _, l := range layers {
		if sum += live[l]; sum > budget {
			break
		}
		small[l] = true
	}
	if len(small) < 2 {
		return nil
	}
	for _, e := range i.extents {
		if small[e.Layer] {
			spans = appendSpan(spans, span{e.RAM, e.end()})
		}
	}
	return spans
}

// total is the size of runs in bytes.
func total(spans []span) (n uint64) {
	for _, s := range spans {
		n += s.end - s.start
	}
	return n
}

// scattered returns the runs of RAM that are in neither of the two largest layers, ascending.
func (i *Image) scattered() (spans []span) {
	var large [2]*Layer
	for _, r := range i.refs {
		switch {
		case large[0] == nil || r.size > large[0].size:
			large[0], large[1] = r.Layer, large[0]
		case large[1] == nil || r.size > large[1].size:
			large[1] = r.Layer
		}
	}
	for _, e := range i.extents {
		if e.Layer != large[0] && e.Layer != large[1] {
			spans = appendSpan(spans, span{e.RAM, e.end()})
		}
	}
	return spans
}

// union joins two ascending lists of runs.
func union(a, b []span) []span {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(x, y span) int { return cmp.Compare(x.start, y.start) })
	out := all[:0]
	for _, s := range all {
		if n := len(out); n > 0 && s.start <= out[n-1].end {
			out[n-1].end = max(out[n-1].end, s.end)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// copyOut makes a layer of runs of RAM, one after the other.
func (m *Memory) copyOut(spans []span) (_ *Layer, _ []Extent, err error) {
	var size uint64
	for _, s := range spans {
		size += s.end - s.start
	}
	file, err := memfd(size)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = file.Close()
		}
	}()
	l := &Layer{file: file, size: size}
	extents := make([]Extent, 0, len(spans))
	var at uint64
	for _, s := range spans {
		if err := writeAll(file, m.mapping.mem[s.start:s.end], int64(at)); err != nil {
			return nil, nil, err
		}
		extents = append(extents, Extent{RAM: s.start, Size: s.end - s.start, Layer: l, Offset: at})
		at += s.end - s.start
	}
	return l, extents, seal(file)
}

// writeAll has the kernel copy straight from the guest's memory.
func writeAll(file *os.File, p []byte, off int64) error {
	if _, err := file.WriteAt(p, off); err != nil {
		return fmt.Errorf("copy guest memory to a layer: %w", err)
	}
	return nil
}

// bridge fills the smallest gaps between runs until the image that results has no more than limit
// extents. The pages in a gap are copied though nobody has written them, which costs memory, but less
// time in every fork than a mapping more.
func bridge(lower []Extent, spans []span, limit int) []span {
	for gap := uint64(minGap); ; gap *= 2 {
		spans = joinGaps(spans, gap)
		if len(spans) == 1 || countExtents(lower, spans) <= limit {
			return spans
		}
	}
}

// minGap is the gap that is always filled: four pages copy in less time than a mapping takes.
const minGap = 4 * PageSize

func joinGaps(spans []span, gap uint64) []span {
	out := spans[:1]
	for _, s := range spans[1:] {
		if last := &out[len(out)-1]; s.start-last.end <= gap {
			last.end = s.end
		} else {
			out = append(out, s)
		}
	}
	return out
}

// countExtents is how many there are when spans have covered lower.
func countExtents(lower []Extent, spans []span) int {
	upper := make([]Extent, len(spans))
	for i, s := range spans {
		upper[i] = Extent{RAM: s.start, Size: s.end - s.start, Layer: countingLayer, Offset: uint64(i) << 32}
	}
	return len(overlay(lower, upper))
}

// countingLayer stands for one that is still to be made.
var countingLayer = &Layer{}
