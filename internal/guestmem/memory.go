package guestmem

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Kinds of error, for errors.Is; ErrSize and ErrNotSealed are others.
var (
	// ErrClosed: the memory was closed or frozen.
	ErrClosed = errors.New("guestmem: closed")
	// ErrOutOfRange: the bytes are not, or not all, in one region of RAM.
	ErrOutOfRange = errors.New("guestmem: outside of guest memory")
	// ErrMisaligned: a Load or Store at an address that is no multiple of its width.
	ErrMisaligned = errors.New("guestmem: misaligned")
)

// Options are choices about how memory is mapped. The zero value is right for density.
type Options struct {
	// File backs the memory of New in place of a memfd: an empty regular file, open for reading
	// and writing, that nobody else writes. The Memory takes it over in every case.
	File *os.File
	// HugePages asks the kernel for transparent huge pages: fewer faults and TLB misses for a
	// guest that uses most of its memory, more memory for one that does not.
	HugePages bool
}

// Region is a contiguous piece of RAM: what becomes one memslot.
type Region struct {
	// GPA is the guest-physical address of the first byte.
	GPA uint64
	// Mem is the host's mapping of it, page-aligned in place and length.
	Mem []byte
}

// Memory is the RAM of one guest. Its methods may be called concurrently.
type Memory struct {
	mapping mapping
	regions []Region
	// What Split changes: its caller has stopped all that could use the memory meanwhile; and Image.
	file   *os.File // the memory file of New; nil for a fork
	image  *Image   // what this memory is a fork of; nil for memory of New, and of the function Fork
	split  *split   // nil once finished
	mapped []Extent // what of RAM is mapped from which layer, where no page is the memory's own
	moved  []Extent // what the newest layer has taken in from others that are still mapped; for the next Split

	leftMu sync.Mutex
	left   []*Image // that Settle is to close

	// users is the number of holders, with the sign bit set once the memory is closed.
	users   atomic.Int64
	drained chan struct{} // closed when the last holder of closed memory is gone
	done    chan struct{} // closed when the mapping is gone
}

// New makes zeroed RAM of size bytes with a memory file of its own. Its pages are allocated when
// they are first written.
func New(size uint64, opt Options) (*Memory, error) {
	file := opt.File
	m, err := newShared(size, opt)
	if err != nil && file != nil {
		_ = file.Close()
	}
	return m, err
}

func newShared(size uint64, opt Options) (*Memory, error) {
	if _, err := Layout(size); err != nil {
		return nil, err
	}
	file := opt.File
	if file == nil {
		var err error
		if file, err = memfd(size); err != nil {
			return nil, err
		}
	} else if err := emptyFile(file, size); err != nil {
		return nil, err
	}
	m, err := mapMemory(size, opt, func(mp mapping) error {
		return mp.file(0, size, file, 0, unix.MAP_SHARED)
	})
	if err != nil {
		if opt.File == nil {
			_ = file.Close()
		}
		return nil, err
	}
	m.file = file
	return m, nil
}

// Extent says that a run of RAM has the content of a run of a layer. All figures are bytes, in whole
// pages.
type Extent struct {
	// RAM is the offset in RAM, counted as in Layout: without the hole.
	RAM  uint64
	Size uint64
	// Layer and Offset say where the content is.
	Layer  *Layer
	Offset uint64
}

// Fork makes RAM of size bytes out of layers. The extents are mapped in order, a later one over an
// earlier one; RAM that none covers is zero. Every extent costs a mapping, so a caller with a deep
// stack of layers flattens it first. The layers need to stay open only for the duration of the call.
// Options.File is not used.
func Fork(size uint64, extents []Extent, opt Options) (*Memory, error) {
	if _, err := Layout(size); err != nil {
		return nil, err
	}
	for _, e := range extents {
		if err := e.check(size); err != nil {
			return nil, err
		}
	}
	if pieces := piecesOf(size, extents); pieces != nil {
		mp, err := compose(size, pieces)
		if err == nil {
			return layOut(mp, opt)
		}
		if !errors.Is(err, errTaken) {
			return nil, err
		}
	}
	return mapMemory(size, opt, func(mp mapping) error {
		if err := mp.zero(0, size); err != nil {
			return err
		}
		for _, e := range extents {
			if err := e.Layer.mapInto(mp, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// piecesOf returns what RAM of extents consists of, with the zeros between them, or nil if they are not in order, or overlap.
func piecesOf(size uint64, extents []Extent) (pieces []piece) {
	at := uint64(0)
	pieces = make([]piece, 0, 2*len(extents)+1)
	for _, e := range extents {
		if e.RAM < at {
			return nil
		}
		if e.RAM > at {
			pieces = append(pieces, piece{at: at, size: e.RAM - at})
		}
		pieces = append(pieces, piece{e.RAM, e.Size, e.Layer.file, e.Offset})
		at = e.end()
	}
	if at < size {
		pieces = append(pieces, piece{at: at, size: size - at})
	}
	return pieces
}

func (e Extent) check(size uint64) error {
	switch {
	case e.Layer == nil:
		return fmt.Errorf("%w: extent at %#x has no layer", ErrSize, e.RAM)
	case e.Size == 0, (e.RAM|e.Size|e.Offset)%PageSize != 0:
		return fmt.Errorf("%w: extent of %d bytes at %#x from offset %#x is not whole pages", ErrSize, e.Size, e.RAM, e.Offset)
	case e.RAM > size || e.Size > size-e.RAM:
		return fmt.Errorf("%w: extent of %d bytes at %#x exceeds RAM of %d bytes", ErrSize, e.Size, e.RAM, size)
	case e.Offset > e.Layer.size || e.Size > e.Layer.size-e.Offset:
		// Pages after the end of a file raise SIGBUS when they are touched.
		return fmt.Errorf("%w: extent of %d bytes from offset %#x exceeds the layer of %d bytes", ErrSize, e.Size, e.Offset, e.Layer.size)
	}
	return nil
}

// mapMemory reserves address space, has fill map something at every byte of it, and lays it out. The size is one that
// Layout takes.
func mapMemory(size uint64, opt Options, fill func(mapping) error) (*Memory, error) {
	mp, err := reserve(size)
	if err != nil {
		return nil, err
	}
	if err := fill(mp); err != nil {
		return nil, errors.Join(err, mp.unmap())
	}
	return layOut(mp, opt)
}

// layOut lays out what is mapped, and takes it over, also when it fails.
func layOut(mp mapping, opt Options) (*Memory, error) {
	ranges, err := Layout(uint64(len(mp.mem)))
	if err == nil {
		err = mp.advise(opt)
	}
	if err != nil {
		return nil, errors.Join(err, mp.unmap())
	}
	m := &Memory{mapping: mp, drained: make(chan struct{}), done: make(chan struct{})}
	rest := mp.mem
	for _, r := range ranges {
		m.regions = append(m.regions, Region{GPA: r.GPA, Mem: rest[:r.Size:r.Size]})
		rest = rest[r.Size:]
	}
	return m, nil
}

// Size is the amount of RAM in bytes, without the hole.
func (m *Memory) Size() uint64 {
	var size uint64
	for _, r := range m.regions {
		size += uint64(len(r.Mem))
	}
	return size
}

// Ranges returns where RAM lies, in ascending order.
func (m *Memory) Ranges() []Range {
	ranges := make([]Range, len(m.regions))
	for i, r := range m.regions {
		ranges[i] = Range{GPA: r.GPA, Size: uint64(len(r.Mem))}
	}
	return ranges
}

// Regions returns the host's mappings, in ascending order of address: one memslot each. They are
// valid until Close; whoever hands them to KVM closes the VM before the memory.
func (m *Memory) Regions() ([]Region, error) {
	if err := m.Acquire(); err != nil {
		return nil, err
	}
	defer m.Release()
	return append([]Region(nil), m.regions...), nil
}

// closedBit in users makes the number negative.
const closedBit = math.MinInt64

// Acquire keeps the memory mapped until Release; it fails if the memory is closed. Holders need not
// be nested in any order. One that never releases makes Close wait for ever.
func (m *Memory) Acquire() error {
	for {
		n := m.users.Load()
		if n < 0 {
			return ErrClosed
		}
		if m.users.CompareAndSwap(n, n+1) {
			return nil
		}
	}
}

// Release ends what one Acquire began.
func (m *Memory) Release() {
	switch m.users.Add(-1) {
	case closedBit:
		close(m.drained)
	case -1, math.MaxInt64:
		panic("guestmem: Release without Acquire")
	}
}

// Close makes further accesses fail, waits for those in progress and for all holders, and frees the
// memory. It is idempotent; every call returns after the memory is gone.
func (m *Memory) Close() error {
	closed, err := m.unmap()
	if !closed {
		<-m.done
		return nil
	}
	defer close(m.done)
	if m.file != nil {
		err = errors.Join(err, m.file.Close())
	}
	if m.image != nil {
		err = errors.Join(err, m.image.Close())
	}
	if m.split != nil {
		err = errors.Join(err, m.split.below.Close())
	}
	return errors.Join(err, m.closeLeft())
}

// unmap takes the memory out of use; closed is false if someone else has done so. The caller then
// closes m.done.
func (m *Memory) unmap() (closed bool, err error) {
	for {
		n := m.users.Load()
		if n < 0 {
			return false, nil
		}
		if m.users.CompareAndSwap(n, n|closedBit) {
			if n > 0 {
				<-m.drained
			}
			return true, m.mapping.unmap()
		}
	}
}

// Freeze ends this memory as Close does and returns its content as a layer, from which forks can be
// made. Its size is that of RAM. Only memory of New can be frozen.
func (m *Memory) Freeze() (*Layer, error) {
	if m.file == nil {
		return nil, fmt.Errorf("freeze guest memory: %w: a fork has no memory file of its own", errors.ErrUnsupported)
	}
	// A writable shared mapping would keep the file from being sealed, and could change it.
	size := m.Size()
	closed, err := m.unmap()
	if !closed {
		return nil, fmt.Errorf("freeze guest memory: %w", ErrClosed)
	}
	defer close(m.done)
	if err == nil {
		err = seal(m.file)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("freeze guest memory: %w", err), m.file.Close())
	}
	return &Layer{file: m.file, size: size}, nil
}
