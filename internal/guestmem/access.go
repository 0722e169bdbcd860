package guestmem

import (
	"encoding/binary"
	"fmt"
)

// find returns the n bytes of RAM at gpa. It is the only place where a guest's address becomes a
// host's. The caller holds the memory.
func (m *Memory) find(gpa, n uint64) ([]byte, error) {
	for i := range m.regions {
		r := &m.regions[i]
		// An address below the region wraps around to an offset beyond its end.
		off, size := gpa-r.GPA, uint64(len(r.Mem))
		if off <= size && n <= size-off {
			return r.Mem[off : off+n : off+n], nil
		}
	}
	return nil, fmt.Errorf("%w: %d bytes at %#x", ErrOutOfRange, n, gpa)
}

// ReadAt copies the guest's memory at gpa to p: all of p, or nothing and an error.
func (m *Memory) ReadAt(p []byte, gpa uint64) error {
	if err := m.Acquire(); err != nil {
		return err
	}
	defer m.Release()
	mem, err := m.find(gpa, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(p, mem)
	return nil
}

// WriteAt copies p to the guest's memory at gpa: all of p, or nothing and an error.
func (m *Memory) WriteAt(p []byte, gpa uint64) error {
	if err := m.Acquire(); err != nil {
		return err
	}
	defer m.Release()
	mem, err := m.find(gpa, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(mem, p)
	return nil
}

// Slice returns the n bytes of guest memory at gpa in place, for bulk data that the host passes on
// without looking at it. The caller has called Acquire, and does not use the slice after Release.
func (m *Memory) Slice(gpa, n uint64) ([]byte, error) {
	// Not for the caller's sake, who holds the memory, but to fail cleanly for one who does not.
	if err := m.Acquire(); err != nil {
		return nil, err
	}
	defer m.Release()
	return m.find(gpa, n)
}

// The typed reads and writes are little endian, as virtio and x86 are. They need no alignment and
// may be torn; see Load and Store for those that are not.

// ReadUint16 reads two bytes at gpa.
func (m *Memory) ReadUint16(gpa uint64) (uint16, error) {
	var b [2]byte
	err := m.ReadAt(b[:], gpa)
	return binary.LittleEndian.Uint16(b[:]), err
}

// ReadUint32 reads four bytes at gpa.
func (m *Memory) ReadUint32(gpa uint64) (uint32, error) {
	var b [4]byte
	err := m.ReadAt(b[:], gpa)
	return binary.LittleEndian.Uint32(b[:]), err
}

// ReadUint64 reads eight bytes at gpa.
func (m *Memory) ReadUint64(gpa uint64) (uint64, error) {
	var b [8]byte
	err := m.ReadAt(b[:], gpa)
	return binary.LittleEndian.Uint64(b[:]), err
}

// WriteUint16 writes two bytes at gpa.
func (m *Memory) WriteUint16(gpa uint64, v uint16) error {
	var b [2]byte
	binary.LittleEndian.PutUint16(b[:], v)
	return m.WriteAt(b[:], gpa)
}

// WriteUint32 writes four bytes at gpa.
func (m *Memory) WriteUint32(gpa uint64, v uint32) error {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	return m.WriteAt(b[:], gpa)
}

// WriteUint64 writes eight bytes at gpa.
func (m *Memory) WriteUint64(gpa uint64, v uint64) error {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	return m.WriteAt(b[:], gpa)
}
