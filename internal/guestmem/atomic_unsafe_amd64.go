package guestmem

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Load and Store are single accesses that the guest's processors cannot see half done. Every Load
// and Store happens in the order of the program, as those of sync/atomic: what was written before a
// Store is visible to a guest that has seen its value, and a Load after a Store is not done early,
// which the suppression of notifications relies on. They are in the processor's byte order, which is
// also virtio's.

// word returns the place of an aligned value of the given width. The caller holds the memory.
func (m *Memory) word(gpa, width uint64) (unsafe.Pointer, error) {
	mem, err := m.find(gpa, width)
	if err != nil {
		return nil, err
	}
	// Regions start on pages in the guest and in the host, so both are aligned or neither is.
	if gpa%width != 0 {
		return nil, fmt.Errorf("%w: %d bytes at %#x", ErrMisaligned, width, gpa)
	}
	// find has checked that there are width bytes.
	return unsafe.Pointer(unsafe.SliceData(mem)), nil
}

// sync/atomic has no 16-bit operations; virtio's indices are 16 bits wide.

//go:noescape
func load16(p unsafe.Pointer) uint16

//go:noescape
func store16(p unsafe.Pointer, v uint16)

// LoadUint16 atomically reads the two bytes at gpa, which must be even.
func (m *Memory) LoadUint16(gpa uint64) (uint16, error) {
	if err := m.Acquire(); err != nil {
		return 0, err
	}
	defer m.Release()
	p, err := m.word(gpa, 2)
	if err != nil {
		return 0, err
	}
	return load16(p), nil
}

// LoadUint32 atomically reads the four bytes at gpa, a multiple of four.
func (m *Memory) LoadUint32(gpa uint64) (uint32, error) {
	if err := m.Acquire(); err != nil {
		return 0, err
	}
	defer m.Release()
	p, err := m.word(gpa, 4)
	if err != nil {
		return 0, err
	}
	return atomic.LoadUint32((*uint32)(p)), nil // aligned and in bounds: word
}

// LoadUint64 atomically reads the eight bytes at gpa, a multiple of eight.
func (m *Memory) LoadUint64(gpa uint64) (uint64, error) {
	if err := m.Acquire(); err != nil {
		return 0, err
	}
	defer m.Release()
	p, err := m.word(gpa, 8)
	if err != nil {
		return 0, err
	}
	return atomic.LoadUint64((*uint64)(p)), nil // aligned and in bounds: word
}

// StoreUint16 atomically writes the two bytes at gpa, which must be even.
func (m *Memory) StoreUint16(gpa uint64, v uint16) error {
	if err := m.Acquire(); err != nil {
		return err
	}
	defer m.Release()
	p, err := m.word(gpa, 2)
	if err != nil {
		return err
	}
	store16(p, v)
	return nil
}

// StoreUint32 atomically writes the four bytes at gpa, a multiple of four.
func (m *Memory) StoreUint32(gpa uint64, v uint32) error {
	if err := m.Acquire(); err != nil {
		return err
	}
	defer m.Release()
	p, err := m.word(gpa, 4)
	if err != nil {
		return err
	}
	atomic.StoreUint32((*uint32)(p), v) // aligned and in bounds: word
	return nil
}

// StoreUint64 atomically writes the eight bytes at gpa, a multiple of eight.
func (m *Memory) StoreUint64(gpa uint64, v uint64) error {
	if err := m.Acquire(); err != nil {
		return err
	}
	defer m.Release()
	p, err := m.word(gpa, 8)
	if err != nil {
		return err
	}
	atomic.StoreUint64((*uint64)(p), v) // aligned and in bounds: word
	return nil
}
