package guestmem

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// A branch is made in two steps, of which the guest stands still for the first only. Split makes a layer of the pages that
// the memory has written, and has the memory go on from it. Image finishes that layer (compact.go) and gives out what
// copies are made of.

// split is what Split has begun and Image is to finish.
type split struct {
	layer *layerRef
	// below is what the layer lies on, written what the layer has of its own. The file of the layer is as large as RAM and has each
	// page where RAM has it: nothing needs to be known of the others when these are written.
	below   *Image
	written []span
}

// Split has the memory go on from what it holds now: what is written afterwards will not be in the image that Image
// returns. It costs the pages written since the memory's own birth, or since the last Split, never its size.
//
// Nobody may write to the memory meanwhile: the VM and all devices are paused. Slices of guest memory and memslots remain
// valid. When it fails, the memory is as it was.
func (m *Memory) Split(p *Pagemap) error {
	if err := m.Acquire(); err != nil {
		return fmt.Errorf("branch guest memory: %w", err)
	}
	defer m.Release()
	var err error
	if m.file != nil {
		err = m.sealOwn()
	} else {
		err = m.splitWritten(p)
	}
	if err != nil {
		return fmt.Errorf("branch guest memory: %w", err)
	}
	return nil
}

// Image returns what the memory held when it was last split, for so many copies, 1 or more, as are expected: what spares each of
// them mappings is paid for once. The guest may run meanwhile, and Settle is to follow; Split may
// not run. An error leaves everything as it is, and it may be called again.
func (m *Memory) Image(copies int) (*Image, error) {
	if err := m.Acquire(); err != nil {
		return nil, fmt.Errorf("branch guest memory: %w", err)
	}
	defer m.Release()
	if m.image == nil {
		return nil, fmt.Errorf("branch guest memory: %w: it was not split", errors.ErrUnsupported)
	}
	if err := m.finish(copies); err != nil {
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
	m.file, m.image, m.mapped = nil, holdImage(size, []*layerRef{newLayerRef(l)}, []Extent{l.Extent()}), []Extent{l.Extent()}
	return nil
}

// splitWritten moves the pages that a fork has written to a layer of their own.
func (m *Memory) splitWritten(p *Pagemap) error {
	if m.image == nil {
		return fmt.Errorf("%w: memory of layers that no image holds", errors.ErrUnsupported)
	}
	if err := m.finish(1); err != nil { // if nobody has
		return err
	}
	written, err := p.written(m.mapping)
	if err != nil {
		return err
	}
	var own []Extent
	if len(written) > 0 {
		written = joinGaps(written, nearGap)
		for gap := uint64(2 * nearGap); len(written) > 1 && countExtents(m.mapped, written) > maxMapped; gap *= 2 {
			written = joinGaps(written, gap)
		}
		layer, err := m.copyOut(written)
		if err != nil {
			return err
		}
		own = extentsOf(layer, written)
		s := &split{newLayerRef(layer), m.image, written}
		m.image = holdImage(s.below.size, append(slices.Clone(s.below.refs), s.layer), overlay(s.below.extents, own))
		m.split = s
	}
	// From here on nothing can go wrong. A page that is not given back is still this memory's own, of
	// the same content, and will be taken for a written one the next time.
	given := overlay(m.moved, own)
	for i, e := range given {
		if e.Layer.mapInto(m.mapping, e) != nil {
			given = given[:i]
			break // out of mappings
		}
	}
	m.mapped, m.moved = overlay(m.mapped, given), nil
	return nil
}

// copyOut makes a layer that has runs of RAM, each where RAM has it, and holes elsewhere.
func (m *Memory) copyOut(spans []span) (*Layer, error) {
	file, err := memfd(m.Size())
	if err != nil {
		return nil, err
	}
	for _, s := range spans {
		if err := writeAll(file, m.mapping.mem[s.start:s.end], int64(s.start)); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	return &Layer{file: file, size: m.Size()}, nil
}

// extentsOf says that runs of RAM are in the layer that copyOut has made.
func extentsOf(l *Layer, spans []span) []Extent {
	extents := make([]Extent, len(spans))
	for i, s := range spans {
		extents[i] = Extent{RAM: s.start, Size: s.end - s.start, Layer: l, Offset: s.start}
	}
	return extents
}

// finish adds to the layer that Split has begun what spares copies mappings and layers, and seals it. If there is no room for
// that, the layer stays with what was written. On error it can be called again.
func (m *Memory) finish(copies int) error {
	s := m.split
	if s == nil {
		return nil
	}
	written := total(s.written)
	taken := m.image.small(s.layer.Layer, written)
	spans := bridge(s.below.size, s.below.extents, union(s.written, taken), written, copies)
	between := subtract(spans, s.written)
	copied := s.below.copyTo(s.layer.file, between)
	if copied == nil {
		copied = allocate(s.layer.file, subtract(between, s.below.spans()))
	}
	if err := seal(s.layer.file); err != nil {
		return err
	}
	if copied == nil {
		// Hold first: Settle may close what was left at any moment.
		small := m.image
		m.image = holdImage(s.below.size, append(slices.Clone(s.below.refs), s.layer), overlay(s.below.extents, extentsOf(s.layer.Layer, spans)))
		m.leave(small)
	}
	m.moved = m.stale()
	m.leave(s.below)
	m.split = nil
	return nil
}

// stale returns where the image has what the memory has mapped from layers that are no longer the image's: those take memory
// until it is mapped from the image's own.
func (m *Memory) stale() []Extent {
	current := m.image.current()
	var spans []span
	for _, e := range m.mapped {
		if !current[e.Layer] {
			spans = appendSpan(spans, span{e.RAM, e.end()})
		}
	}
	return within(m.image.extents, spans)
}

// leave has Settle close an image.
func (m *Memory) leave(i *Image) {
	m.leftMu.Lock()
	defer m.leftMu.Unlock()
	m.left = append(m.left, i)
}

// Settle frees the layers that branches have left without a user, which takes about a seventh of the time that it took
// to make them, and for which no guest needs to stand still. Until then, or until Close, they take memory. Layers whose
// pages were moved to a newer one stay mapped until the next Split.
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
