package guestmem

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Image is the content of RAM at one moment, kept in layers, of which it holds the files open.
// Images of relatives share layers. Its methods may be called concurrently, but not with Close.
type Image struct {
	size    uint64
	extents []Extent // ascending, without overlaps; RAM that none covers is zero
	refs    []*layerRef
	closing sync.Once
	err     error
}

// layerRef counts the images that hold a layer.
type layerRef struct {
	*Layer
	images atomic.Int64
}

func newLayerRef(l *Layer) *layerRef { return &layerRef{Layer: l} }

// NewImage makes an image of RAM of size bytes from layers, which it takes over, also when it fails.
// Extents name them by their index. A later extent covers an earlier one.
func NewImage(size uint64, layers []*Layer, extents []Extent) (*Image, error) {
	refs := make([]*layerRef, len(layers))
	for i, l := range layers {
		refs[i] = newLayerRef(l)
	}
	i, err := newImage(size, refs, extents)
	if err != nil {
		for _, l := range layers {
			_ = l.Close()
		}
	}
	return i, err
}

func newImage(size uint64, refs []*layerRef, extents []Extent) (*Image, error) {
	if _, err := Layout(size); err != nil {
		return nil, err
	}
	flat := make([]Extent, 0, len(extents))
	for _, e := range extents {
		if err := e.check(size); err != nil {
			return nil, err
		}
		if n := len(flat); n == 0 || flat[n-1].end() <= e.RAM { // as Extents returns them
			flat = append(flat, e)
		} else {
			flat = overlay(flat, []Extent{e})
		}
	}
	return holdImage(size, refs, join(flat)), nil
}

// holdImage makes an image of extents that are in order, and counts itself among the users of the
// layers that occur in them.
func holdImage(size uint64, refs []*layerRef, extents []Extent) *Image {
	var used []*Layer // few
	for _, e := range extents {
		if !slices.Contains(used, e.Layer) {
			used = append(used, e.Layer)
		}
	}
	i := &Image{size: size, extents: extents}
	for _, r := range refs {
		if slices.Contains(used, r.Layer) {
			r.images.Add(1)
			i.refs = append(i.refs, r)
		} else if r.images.Load() == 0 {
			_ = r.Close() // nobody's: a layer that is covered by others as a whole
		}
	}
	return i
}

// Size is that of RAM in bytes.
func (i *Image) Size() uint64 { return i.size }

// Extents returns where the content is, ascending and without overlaps. RAM that none covers is zero.
func (i *Image) Extents() []Extent { return slices.Clone(i.extents) }

// Layers returns the image's layers in a fixed order. They stay the image's.
func (i *Image) Layers() []*Layer {
	layers := make([]*Layer, len(i.refs))
	for n, r := range i.refs {
		layers[n] = r.Layer
	}
	return layers
}

// current tells of a layer whether it is the image's, which has its file open.
func (i *Image) current() map[*Layer]bool {
	current := make(map[*Layer]bool, len(i.refs))
	for _, r := range i.refs {
		current[r.Layer] = true
	}
	return current
}

// Fork makes RAM with the image's content. Its cost does not depend on the size of RAM, but on the
// number of extents, which Memory.Image bounds.
func (i *Image) Fork(opt Options) (*Memory, error) {
	m, err := Fork(i.size, i.extents, opt)
	if err != nil {
		return nil, err
	}
	m.image, m.mapped = i.hold(), i.extents
	return m, nil
}

// hold makes another image of the same content.
func (i *Image) hold() *Image { return holdImage(i.size, i.refs, i.extents) }

// Close lets go of the layers; those that no other image holds are closed, and their memory is free
// once no RAM is mapped from them. It is idempotent.
func (i *Image) Close() error {
	i.closing.Do(func() {
		var errs []error
		for _, r := range i.refs {
			if r.images.Add(-1) == 0 {
				errs = append(errs, r.Close())
			}
		}
		i.err = errors.Join(errs...)
	})
	return i.err
}

// overlay lays upper over lower; both are ascending and without overlaps, and so is the result.
// Neighbours that continue each other become one.
func overlay(lower, upper []Extent) []Extent {
	out := make([]Extent, 0, len(lower)+2*len(upper))
	next := 0
	for _, e := range lower {
		for e.Size > 0 {
			// What ends before e cannot cover it.
			for next < len(upper) && upper[next].end() <= e.RAM {
				out = append(out, upper[next])
				next++
			}
			if next == len(upper) || upper[next].RAM >= e.end() {
				out = append(out, e)
				break
			}
			u := upper[next]
			if u.RAM > e.RAM {
				out = append(out, e.cut(0, u.RAM-e.RAM))
			}
			if u.end() >= e.end() {
				break // covered to its end; u comes when something after it does, or at the end
			}
			out = append(out, u)
			next++
			e = e.cut(u.end()-e.RAM, e.end()-u.end())
		}
	}
	out = append(out, upper[next:]...)
	slices.SortFunc(out, func(a, b Extent) int { return cmp.Compare(a.RAM, b.RAM) })
	return join(out)
}

// within returns the parts of extents that are in runs.
func within(extents []Extent, spans []span) (out []Extent) {
	for _, s := range spans {
		for len(extents) > 0 && extents[0].end() <= s.start {
			extents = extents[1:]
		}
		for _, e := range extents {
			if e.RAM >= s.end {
				break
			}
			if e.RAM < s.start {
				e = e.cut(s.start-e.RAM, e.end()-s.start)
			}
			if e.end() > s.end {
				e = e.cut(0, s.end-e.RAM)
			}
			out = append(out, e)
		}
	}
	return out
}

// join makes one extent of neighbours that continue each other.
func join(extents []Extent) []Extent {
	out := extents[:0]
	for _, e := range extents {
		if n := len(out); n > 0 {
			last := &out[n-1]
			if last.end() == e.RAM && last.Layer == e.Layer && last.Offset+last.Size == e.Offset {
				last.Size += e.Size
				continue
			}
		}
		out = append(out, e)
	}
	return out
}

func (e Extent) end() uint64 { return e.RAM + e.Size }

// cut returns the part of size bytes from off on.
func (e Extent) cut(off, size uint64) Extent {
	return Extent{RAM: e.RAM + off, Size: size, Layer: e.Layer, Offset: e.Offset + off}
}

// String is for messages.
func (e Extent) String() string {
	return fmt.Sprintf("[%#x, %#x)", e.RAM, e.end())
}
