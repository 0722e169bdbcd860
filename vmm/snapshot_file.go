package vmm

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/aethervm/aether/internal/codec"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/snapshot"
)

// SaveMemory writes the memory of an encoded snapshot of so many bytes of RAM to a file, and returns the state that goes
// with it: the same one, with the file as its first layer. Layers are those of the snapshot; bases are the numbers of those
// that are files already, and of which nothing is written: they are the layers that follow the first one. Of the state it
// reads where the memory is and nothing else, so that an owner can save what a cell has sent.
func SaveMemory(ctx context.Context, w *snapshot.Writer, state []byte, layers []*os.File, memory uint64, bases ...int) ([]byte, error) {
	l, rest, err := splitState(state, memory)
	if err != nil {
		return nil, fmt.Errorf("save snapshot: %w", err)
	}
	extents := make([]snapshot.Extent, len(l.extents))
	for i, e := range l.extents {
		if uint64(e.Layer) >= uint64(len(layers)) {
			return nil, fmt.Errorf("save snapshot: %w: an extent in layer %d of %d", ErrSnapshot, e.Layer, len(layers))
		}
		extents[i] = snapshot.Extent{RAM: e.RAM, Size: e.Size, Source: layers[e.Layer], Offset: e.Offset, Based: slices.Contains(bases, int(e.Layer))}
	}
	placed, err := w.WriteMemory(ctx, extents)
	if err != nil {
		return nil, err
	}
	saved := layout{size: l.size, prefetch: l.prefetch}
	for _, p := range placed {
		saved.extents = append(saved.extents, extentRecord{RAM: p.RAM, Size: p.Size, Offset: p.Offset})
	}
	for _, e := range l.extents {
		number := slices.Index(bases, int(e.Layer))
		if number < 0 {
			continue
		}
		for _, left := range snapshot.Without(e.RAM, e.Size, placed) {
			saved.extents = append(saved.extents, extentRecord{RAM: left.RAM, Size: left.Size, Offset: e.Offset + left.Offset, Layer: uint32(1 + number)})
		}
	}
	slices.SortFunc(saved.extents, func(a, b extentRecord) int { return cmp.Compare(a.RAM, b.RAM) })
	if len(saved.extents) > guestmem.MaxExtents {
		return nil, fmt.Errorf("save snapshot: its memory is in %d runs; up to %d are possible", len(saved.extents), guestmem.MaxExtents)
	}
	return append(saved.append(nil), rest...), nil
}

// SharedMemory is how many bytes of the memory of an encoded snapshot are in each of so many layers.
func SharedMemory(state []byte, layers int, memory uint64) ([]uint64, error) {
	l, _, err := splitState(state, memory)
	if err != nil {
		return nil, err
	}
	sizes := make([]uint64, layers)
	for _, e := range l.extents {
		if uint64(e.Layer) >= uint64(layers) {
			return nil, fmt.Errorf("%w: an extent in layer %d of %d", ErrSnapshot, e.Layer, layers)
		}
		sizes[e.Layer] += e.Size
	}
	return sizes, nil
}

// SavedState is the state of a file, for [OpenSnapshot] with the file as the first layer and its bases as the others, with
// what the file says is to be mapped ahead. A state whose memory is not of so many bytes of RAM, or not all in the memory of
// these files, is refused.
func SavedState(f *snapshot.File, memory uint64, bases ...*snapshot.File) ([]byte, error) {
	l, rest, err := splitState(f.State, memory)
	if err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	if len(bases) != len(f.About.Bases) {
		return nil, fmt.Errorf("saved state: %w: it has %d bases; there are %d", ErrSnapshot, len(f.About.Bases), len(bases))
	}
	files := append([]*snapshot.File{f}, bases...)
	for _, e := range l.extents {
		if uint64(e.Layer) >= uint64(len(files)) {
			return nil, fmt.Errorf("saved state: %w: an extent in file %d of %d", ErrSnapshot, e.Layer, len(files))
		}
		begin, size := files[e.Layer].Memory()
		if e.Offset < begin || e.Offset > begin+size || e.Size > begin+size-e.Offset {
			return nil, fmt.Errorf("saved state: %w: %d bytes of RAM at %#x are not in the file's memory", ErrSnapshot, e.Size, e.RAM)
		}
	}
	if len(f.Prefetch) > 0 { // else that of what it is a copy of holds
		l.prefetch = nil
	}
	for _, r := range f.Prefetch {
		l.prefetch = append(l.prefetch, guestmem.Touched{RAM: r.RAM, Size: r.Size, Written: r.Write})
	}
	return append(l.append(nil), rest...), nil
}

// splitState returns the layout of a state's memory, checked, and what follows it.
func splitState(state []byte, memory uint64) (layout, []byte, error) {
	d := codec.NewDecoder(state)
	l, err := decodeLayout(d)
	if err == nil {
		err = l.check(memory)
	}
	if err != nil {
		return layout{}, nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	return l, d.Rest(), nil
}

// Touched lists the memory that the guest has used since the VM was made or last branched, at most snapshot.MaxRuns runs of it:
// of a copy that has done what copies do first, that is what the next ones should have mapped ahead.
func (vm *VM) Touched() ([]snapshot.Run, error) {
	vm.branching.Lock()
	defer vm.branching.Unlock()
	pages, err := vm.pagemap()
	if err != nil {
		return nil, err
	}
	list, err := vm.memory.Touched(pages, snapshot.MaxRuns)
	runs := make([]snapshot.Run, len(list))
	for i, t := range list {
		runs[i] = snapshot.Run{RAM: t.RAM, Size: t.Size, Write: t.Written}
	}
	return runs, err
}
