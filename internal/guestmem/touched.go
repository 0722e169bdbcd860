package guestmem

import (
	"cmp"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Touched is a run of RAM that has been used since it was mapped, in bytes and whole pages. RAM is counted as in Layout.
type Touched struct {
	RAM, Size uint64
	// Written says that its pages are this memory's own, and no layer's.
	Written bool
}

// Touched lists the pages that were used since the memory was made or last branched, ascending, in at most limit runs. The
// kernel maps some neighbours of a page in advance, which then count too. It may be called while the guest runs.
func (m *Memory) Touched(p *Pagemap, limit int) ([]Touched, error) {
	if err := m.Acquire(); err != nil {
		return nil, fmt.Errorf("list used guest memory: %w", err)
	}
	defer m.Release()
	scan := func() ([]Touched, error) { return p.scanPresent(m.mapping) }
	read := func() ([]Touched, error) { return p.readPresent(m.mapping) }
	list, err := scanned(p, scan, read)
	if err != nil {
		return nil, fmt.Errorf("list used guest memory: %w", err)
	}
	return shorten(list, limit), nil
}

func appendTouched(list []Touched, t Touched) []Touched {
	if n := len(list); n > 0 && list[n-1].RAM+list[n-1].Size == t.RAM && list[n-1].Written == t.Written {
		list[n-1].Size += t.Size
		return list
	}
	return append(list, t)
}

// shorten leaves out the shortest runs if there are more than limit.
func shorten(list []Touched, limit int) []Touched {
	if len(list) > limit {
		slices.SortFunc(list, func(a, b Touched) int { return cmp.Compare(b.Size, a.Size) })
		list = list[:limit]
		slices.SortFunc(list, func(a, b Touched) int { return cmp.Compare(a.RAM, b.RAM) })
	}
	return list
}

// Prefetch maps runs of RAM before they are used, those that are Written with pages of their own, so that a guest does not
// fault them in one by one. It is a wish: what cannot be mapped is left to the guest's own use. It may be called while the
// guest runs.
func (m *Memory) Prefetch(list []Touched) {
	if m.Acquire() != nil {
		return
	}
	defer m.Release()
	size := uint64(len(m.mapping.mem))
	for _, t := range list {
		if m.users.Load() < 0 { // somebody waits for the end
			return
		}
		if t.Size == 0 || (t.RAM|t.Size)%PageSize != 0 || t.RAM > size || t.Size > size-t.RAM {
			continue
		}
		advice := unix.MADV_POPULATE_READ
		if t.Written {
			advice = unix.MADV_POPULATE_WRITE
		}
		if unix.Madvise(m.mapping.mem[t.RAM:t.RAM+t.Size], advice) == unix.EINVAL {
			return // before Linux 5.14
		}
	}
}
