package vmm

import (
	"context"
	"fmt"
	"os"

	"github.com/aethervm/aether/internal/codec"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/snapshot"
)

// SaveMemory writes the memory of an encoded snapshot of so many bytes of RAM to a file, and returns the state that goes
// with it: the same one, with the file as its only layer. Layers are those of the snapshot. Of the state it reads where the
// memory is and nothing else, so that an owner can save what a cell has sent.
func SaveMemory(ctx context.Context, w *snapshot.Writer, state []byte, layers []*os.File, memory uint64) ([]byte, error) {
	l, rest, err := splitState(state, memory)
	if err != nil {
		return nil, fmt.Errorf("save snapshot: %w", err)
	}
	extents := make([]snapshot.Extent, len(l.extents))
	for i, e := range l.extents {
		if uint64(e.Layer) >= uint64(len(layers)) {
			return nil, fmt.Errorf("save snapshot: %w: an extent in layer %d of %d", ErrSnapshot, e.Layer, len(layers))
		}
		extents[i] = snapshot.Extent{RAM: e.RAM, Size: e.Size, Source: layers[e.Layer], Offset: e.Offset}
	}
	placed, err := w.WriteMemory(ctx, extents)
	if err != nil {
		return nil, err
	}
	saved := layout{size: l.size, prefetch: l.prefetch}
	for _, p := range placed {
		saved.extents = append(saved.extents, extentRecord{RAM: p.RAM, Size: p.Size, Offset: p.Offset})
	}
	return append(saved.append(nil), rest...), nil
}

// SavedState is the state of a file, for [OpenSnapshot] with the file as the only layer, with what the file says is to be
// mapped ahead. A state whose memory is not of so many bytes of RAM, or not all in the file's memory, is refused.
func SavedState(f *snapshot.File, memory uint64) ([]byte, error) {
	l, rest, err := splitState(f.State, memory)
	if err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	begin, size := f.Memory()
	for _, e := range l.extents {
		if e.Layer != 0 || e.Offset < begin || e.Offset > begin+size || e.Size > begin+size-e.Offset {
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
	var err error
	if vm.pages == nil {
		if vm.pages, err = guestmem.OpenPagemap(); err != nil {
			return nil, err
		}
	}
	list, err := vm.memory.Touched(vm.pages, snapshot.MaxRuns)
	runs := make([]snapshot.Run, len(list))
	for i, t := range list {
		runs[i] = snapshot.Run{RAM: t.RAM, Size: t.Size, Write: t.Written}
	}
	return runs, err
}
