package cell

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/vmm"
)

const (
	// maxOwn bounds the bytes of one list of pages, a bit each.
	maxOwn = 32 << 10
	// maxPlaces bounds the runs of RAM in layers of one list, so that it is a message. There are up to guestmem.MaxExtents.
	maxPlaces = 2048
)

// memoryMessage asks where the guest's memory is, and says it.
type memoryMessage struct {
	// Layers asks for the layers, and the places from the From'th on; else the pages from From on are asked for.
	Layers bool   `json:"layers,omitempty"`
	From   uint64 `json:"from,omitempty"`
	// IDs are the layers' files: device and inode of each. Places are runs of pages that are in them: the first page,
	// their number, and the layer.
	IDs    []uint64 `json:"ids,omitempty"`
	Places []uint64 `json:"places,omitempty"`
	// Own has a bit for each page from the one that was asked for, set if it is the guest's own and no layer's.
	Own []byte `json:"own,omitempty"`
}

// check holds a message to its bounds.
func (m *memoryMessage) check() error {
	if len(m.IDs) > 2*vmm.MaxLayers || len(m.IDs)%2 != 0 || len(m.Places) > 3*maxPlaces || len(m.Places)%3 != 0 || len(m.Own) > maxOwn {
		return errors.New("its memory is out of bounds")
	}
	return nil
}

// memory answers the owner.
func (s *server) memory(ask *memoryMessage) (*memoryMessage, error) {
	if !ask.Layers {
		own := make([]byte, maxOwn)
		if ask.From >= 1<<40 {
			return nil, fmt.Errorf("memory from page %d on", ask.From)
		}
		return &memoryMessage{Own: own}, s.vm.Own(ask.From*guestmem.PageSize, own)
	}
	files, places := s.vm.Layers()
	reply := &memoryMessage{}
	for _, f := range files {
		id, _, err := layerSize(f)
		if err != nil {
			return nil, err
		}
		reply.IDs = append(reply.IDs, id.device, id.inode)
	}
	places = places[min(ask.From, uint64(len(places))):]
	for _, p := range places[:min(len(places), maxPlaces)] {
		reply.Places = append(reply.Places, p.RAM/guestmem.PageSize, p.Size/guestmem.PageSize, uint64(p.Layer))
	}
	return reply, nil
}

// Memory is where the pages of a guest's RAM come from.
type Memory struct {
	pages  uint64
	layers []fileID
	// source has for each page the index of its layer and one more, or zero: it began as zeros.
	source []uint16
	own    []byte // a bit for each page that is the guest's own, whatever its source is
}

// Memory asks where the guest's memory is. Nothing of it is read, and the guest goes on.
func (c *Cell) Memory(ctx context.Context) (*Memory, error) {
	m, err := c.memory(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask where the guest's memory is: %w", err)
	}
	return m, nil
}

func (c *Cell) memory(ctx context.Context) (*Memory, error) {
	c.branching.Lock() // a branch in between would move pages to a layer
	defer c.branching.Unlock()
	said, err := c.places(ctx)
	if err != nil {
		return nil, err
	}
	m, err := newMemory(said, uint64(c.cfg.MemoryMiB)<<20/guestmem.PageSize)
	if err != nil {
		return nil, fmt.Errorf("the cell breaks the protocol: %w", err)
	}
	for at := uint64(0); at < m.pages; at += 8 * maxOwn {
		reply, err := c.call(ctx, message{Kind: kindMemory, Memory: &memoryMessage{From: at}})
		if err != nil {
			return nil, err
		}
		if reply.Memory == nil || len(reply.Memory.Own) != maxOwn {
			return nil, errors.New("the cell breaks the protocol: it does not list its pages")
		}
		m.own = append(m.own, reply.Memory.Own...)
	}
	return m, nil
}

// places asks for the layers and all places.
func (c *Cell) places(ctx context.Context) (*memoryMessage, error) {
	all := &memoryMessage{}
	for {
		ask := &memoryMessage{Layers: true, From: uint64(len(all.Places) / 3)}
		reply, err := c.call(ctx, message{Kind: kindMemory, Memory: ask})
		if err != nil || reply.Memory == nil {
			return nil, err
		}
		all.IDs, all.Places = reply.Memory.IDs, append(all.Places, reply.Memory.Places...)
		if len(reply.Memory.Places) < 3*maxPlaces || len(all.Places) >= 3*guestmem.MaxExtents {
			return all, nil
		}
	}
}

// newMemory makes sense of what a cell says of its layers, for RAM of so many pages.
func newMemory(said *memoryMessage, pages uint64) (*Memory, error) {
	if said == nil {
		return nil, errors.New("it does not say where its memory is")
	}
	if len(said.IDs) > 2*vmm.MaxLayers || len(said.IDs)%2 != 0 || len(said.Places) > 3*guestmem.MaxExtents || len(said.Places)%3 != 0 {
		return nil, errors.New("its memory is out of bounds")
	}
	m := &Memory{pages: pages, source: make([]uint16, pages)}
	for i := 0; i < len(said.IDs); i += 2 {
		m.layers = append(m.layers, fileID{said.IDs[i], said.IDs[i+1]})
	}
	at := uint64(0)
	for i := 0; i < len(said.Places); i += 3 {
		first, n, layer := said.Places[i], said.Places[i+1], said.Places[i+2]
		if n == 0 || first < at || first > pages || n > pages-first || layer >= uint64(len(m.layers)) {
			return nil, fmt.Errorf("%d pages from page %d on in layer %d of %d", n, first, layer, len(m.layers))
		}
		for p := first; p < first+n; p++ {
			m.source[p] = uint16(layer) + 1
		}
		at = first + n
	}
	return m, nil
}

// MemoryDiff is how the memory of two guests differs, in bytes.
type MemoryDiff struct {
	// Total is the RAM of each.
	Total int64
	// OwnA and OwnB are what each has written since they parted: pages that are its own, or in a layer that the other one
	// does not have.
	OwnA, OwnB int64
	// Differs is what may differ. Other pages are in the same layer in both, or zeros.
	Differs int64
}

// Diff compares the memory of two guests. It reports false if they have no layer in common, or not the same RAM: then they
// have no common ancestor.
func (m *Memory) Diff(other *Memory) (MemoryDiff, bool) {
	number := map[fileID]int{} // of the layers that both have, from 1 on
	for _, id := range m.layers {
		if slices.Contains(other.layers, id) {
			number[id] = len(number) + 1
		}
	}
	if len(number) == 0 || m.pages != other.pages {
		return MemoryDiff{}, false
	}
	d := MemoryDiff{Total: int64(m.pages) * guestmem.PageSize}
	inA, inB := m.numbered(number), other.numbered(number)
	for p := range m.pages {
		a, b := inA(p), inB(p)
		if a == alone {
			d.OwnA += guestmem.PageSize
		}
		if b == alone {
			d.OwnB += guestmem.PageSize
		}
		if a != b || a == alone {
			d.Differs += guestmem.PageSize
		}
	}
	return d, true
}

// alone stands for where a page is that the other guest does not have.
const alone = -1

// numbered tells by number in which layer a page is; 0 is zeros.
func (m *Memory) numbered(number map[fileID]int) func(page uint64) int {
	numbers := make([]int, len(m.layers)+1)
	for i, id := range m.layers {
		if numbers[i+1] = number[id]; numbers[i+1] == 0 {
			numbers[i+1] = alone
		}
	}
	return func(p uint64) int {
		if m.own[p/8]>>(p%8)&1 == 1 {
			return alone
		}
		return numbers[m.source[p]]
	}
}
