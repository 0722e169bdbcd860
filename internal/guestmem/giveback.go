package guestmem

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// GiveBack gives back pages that the memory has written and that hold again what the layer has from which they are mapped: a lock that
// was taken and let go, a flag that the processor has set once more. It returns how many bytes that are. Whoever writes to
// such a page later pays for it once more, so it is for a guest that is to stand still for a while.
//
// Nobody may write to the memory meanwhile, and neither Split nor Image may run at the same time. What is mapped from a layer that the
// newest one has taken in stays what it is until the next Split; when it fails, the rest does.
func (m *Memory) GiveBack(p *Pagemap) (given uint64, err error) {
	fail := func(err error) (uint64, error) { return given, fmt.Errorf("give back guest memory: %w", err) }
	if err := m.Acquire(); err != nil {
		return fail(err)
	}
	defer m.Release()
	if m.image == nil || len(m.mapped) == 0 {
		return 0, nil // nothing is mapped from a layer
	}
	written, err := p.written(m.mapping)
	if err != nil {
		return fail(err)
	}
	current := m.image.current()
	buf := make([]byte, 64<<10)
	for _, e := range within(m.mapped, written) {
		if !current[e.Layer] { // it is mapped still, but its file may be closed
			continue
		}
		for off := uint64(0); off < e.Size; off += uint64(len(buf)) {
			n, err := m.giveSame(e.cut(off, min(uint64(len(buf)), e.Size-off)), buf)
			if given += n; err != nil {
				return fail(err)
			}
		}
	}
	return given, nil
}

// giveSame gives back what is the same in a run of RAM and the run of a layer beneath it, which buf has room for.
func (m *Memory) giveSame(e Extent, buf []byte) (given uint64, err error) {
	buf = buf[:e.Size]
	if _, err := e.Layer.ReadAt(buf, int64(e.Offset)); err != nil {
		return 0, fmt.Errorf("read %d bytes of a layer at %#x: %w", e.Size, e.Offset, err)
	}
	mem := m.mapping.mem[e.RAM:e.end()]
	for _, s := range same(mem, buf) {
		if err := unix.Madvise(mem[s.start:s.end], unix.MADV_DONTNEED); err != nil {
			return given, err
		}
		given += s.end - s.start
	}
	return given, nil
}

// same returns the pages that are the same in both, which are of one size.
func same(a, b []byte) (spans []span) {
	for at := 0; at < len(a); at += PageSize {
		if bytes.Equal(a[at:at+PageSize], b[at:at+PageSize]) {
			spans = appendSpan(spans, span{uint64(at), uint64(at + PageSize)})
		}
	}
	return spans
}
