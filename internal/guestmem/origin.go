package guestmem

import "fmt"

// Extents returns where the content of the memory is that it has not written since it was made or last branched, as
// Image.Extents does, and the layers that are named there. It must not run beside Split or Image.
func (m *Memory) Extents() ([]*Layer, []Extent) {
	if m.image == nil {
		return nil, nil
	}
	return m.image.Layers(), m.image.Extents()
}

// Own tells which pages are this memory's own, and no layer's: a bit for each page of RAM from the byte from on, the lowest
// first, as many as there is room for in bits, which are zero before. The pages that were written since the memory was made
// or last branched are among them. It may be called while the guest runs, but not beside Split or Image.
func (m *Memory) Own(p *Pagemap, from uint64, bits []byte) error {
	if err := m.Acquire(); err != nil {
		return fmt.Errorf("list written guest memory: %w", err)
	}
	defer m.Release()
	size := uint64(len(m.mapping.mem))
	if from%PageSize != 0 || from > size {
		return fmt.Errorf("list written guest memory: %w: from %#x of %#x", ErrSize, from, size)
	}
	end := min(size, from+uint64(len(bits))*8*PageSize)
	if from == end {
		return nil
	}
	if m.file != nil { // all of it, and no layer's
		setBits(bits, 0, (end-from)/PageSize)
		return nil
	}
	spans, err := p.written(mapping{mem: m.mapping.mem[from:end]})
	if err != nil {
		return fmt.Errorf("list written guest memory: %w", err)
	}
	for _, s := range spans {
		setBits(bits, s.start/PageSize, s.end/PageSize)
	}
	return nil
}

func setBits(bits []byte, first, end uint64) {
	for i := first; i < end; i++ {
		bits[i/8] |= 1 << (i % 8)
	}
}
