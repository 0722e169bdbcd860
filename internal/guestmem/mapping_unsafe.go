package guestmem

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapping is a piece of the process's address space. All methods but unmap take offsets that the
// caller has checked.
type mapping struct {
	reserved     unsafe.Pointer // the start of all that was reserved
	reservedSize uintptr
	mem          []byte // the part in use
}

// hugePage is the size of the huge pages of x86. KVM and the kernel can use them only where the
// address in the guest, in the file and in the host agree modulo this.
const hugePage = 2 << 20

// reserve takes address space without any memory behind it, aligned for huge pages.
func reserve(size uint64) (mapping, error) {
	total := uintptr(size) + hugePage
	start, err := unix.MmapPtr(-1, 0, nil, total, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return mapping{}, fmt.Errorf("reserve address space for %d bytes of guest memory: %w", size, err)
	}
	// Only the distance is computed as a number; the pointer is derived from the mapping's own.
	gap := -uintptr(start) % hugePage
	return mapping{
		reserved:     start,
		reservedSize: total,
		// Memory outside Go's heap: the collector does not move it and does not look into it.
		mem: unsafe.Slice((*byte)(unsafe.Add(start, gap)), size),
	}, nil
}

// piece is a part of a mapping: of a file from an offset on, or of zeros where file is nil.
type piece struct {
	at, size uint64
	file     *os.File
	offset   uint64
}

// errTaken says that somebody else of this process has mapped something where a mapping was to be.
var errTaken = errors.New("the address space was taken meanwhile")

// compose makes a mapping of size bytes of pieces, which follow each other from its start to its end. To map them where
// nothing is takes less than half of the time that it takes to map them over something; but what nobody has
// reserved somebody else may take, and then the error wraps errTaken.
func compose(size uint64, pieces []piece) (mapping, error) {
	mp, err := reserve(size)
	if err != nil {
		return mapping{}, err
	}
	start := unsafe.Pointer(&mp.mem[0])
	if err := unix.MunmapPtr(start, uintptr(size)); err != nil {
		return mapping{}, errors.Join(fmt.Errorf("free %d bytes of address space: %w", size, err), mp.unmap())
	}
	// File by file: it takes less than in the order of addresses.
	groups := byFile(pieces)
	for i, group := range groups {
		n, err := mp.placeAll(group)
		if err == nil {
			continue
		}
		// Only what is this mapping's: the pieces that are there, and what was reserved around it all.
		head := uintptr(start) - uintptr(mp.reserved)
		errs := []error{err, unmap(mp.reserved, head), unmap(unsafe.Add(start, size), mp.reservedSize-head-uintptr(size))}
		for _, p := range slices.Concat(append(groups[:i:i], group[:n])...) {
			errs = append(errs, unmap(unsafe.Add(start, p.at), uintptr(p.size)))
		}
		return mapping{}, errors.Join(errs...)
	}
	return mp, nil
}

// byFile sorts pieces by their files, of which there are few, in the order in which these occur first.
func byFile(pieces []piece) [][]piece {
	var files []*os.File
	var groups [][]piece
	for _, p := range pieces {
		i := slices.Index(files, p.file)
		if i < 0 {
			i = len(files)
			files, groups = append(files, p.file), append(groups, nil)
		}
		groups[i] = append(groups[i], p)
	}
	return groups
}

// placeAll maps pieces of one file where nothing is, and returns how many there are when it fails.
func (mp mapping) placeAll(pieces []piece) (n int, err error) {
	all := func(fd, flags int) error {
		for ; n < len(pieces); n++ {
			if err := mp.place(pieces[n], fd, flags); err != nil {
				return fmt.Errorf("map %d bytes of guest memory at %#x: %w", pieces[n].size, pieces[n].at, err)
			}
		}
		return nil
	}
	if pieces[0].file == nil {
		err = all(-1, unix.MAP_ANONYMOUS)
		return n, err
	}
	err = control(pieces[0].file, func(fd int) error { return all(fd, 0) })
	return n, err
}

// place maps a piece of the file fd where nothing is.
func (mp mapping) place(p piece, fd, flags int) error {
	at := unsafe.Pointer(&mp.mem[p.at : p.at+p.size][0])
	got, err := unix.MmapPtr(fd, int64(p.offset), at, uintptr(p.size), unix.PROT_READ|unix.PROT_WRITE,
		flags|unix.MAP_PRIVATE|unix.MAP_FIXED_NOREPLACE|unix.MAP_NORESERVE)
	switch {
	case err == nil && got == at:
		return nil
	case errors.Is(err, unix.EEXIST):
		return errTaken
	case err == nil: // before Linux 4.17
		return errors.Join(errTaken, unmap(got, uintptr(p.size)))
	}
	return err
}

func unmap(at unsafe.Pointer, size uintptr) error {
	if size == 0 {
		return nil
	}
	return unix.MunmapPtr(at, size)
}

// file maps size bytes of a file, from offset on, at the given place of the mapping.
func (mp mapping) file(at, size uint64, file *os.File, offset uint64, share int) error {
	return control(file, func(fd int) error {
		if err := mp.fixed(at, size, fd, int64(offset), share); err != nil {
			return fmt.Errorf("map %d bytes of %s at offset %#x as guest memory: %w", size, file.Name(), offset, err)
		}
		return nil
	})
}

// zero maps memory that reads as zero and belongs to nobody else.
func (mp mapping) zero(at, size uint64) error {
	if err := mp.fixed(at, size, -1, 0, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return fmt.Errorf("map %d bytes of zeros as guest memory: %w", size, err)
	}
	return nil
}

// fixed replaces what is mapped. NORESERVE, since a fork is expected to write little of what it may
// write: what bounds its memory is its control group, not the overcommit heuristic.
func (mp mapping) fixed(at, size uint64, fd int, offset int64, flags int) error {
	// The address lies inside the reservation, so MAP_FIXED cannot hit anybody else's memory.
	place := unsafe.Pointer(&mp.mem[at : at+size][0])
	_, err := unix.MmapPtr(fd, offset, place, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_FIXED|unix.MAP_NORESERVE)
	return err
}

func (mp mapping) advise(opt Options) error {
	// A core dump of the VMM must not carry its guests' secrets.
	if err := unix.Madvise(mp.mem, unix.MADV_DONTDUMP); err != nil {
		return fmt.Errorf("exclude guest memory from core dumps: %w", err)
	}
	if opt.HugePages {
		// EINVAL: a kernel without huge pages. It was a wish.
		if err := unix.Madvise(mp.mem, unix.MADV_HUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("ask for huge pages: %w", err)
		}
	}
	return nil
}

func (mp mapping) unmap() error {
	if err := unix.MunmapPtr(mp.reserved, mp.reservedSize); err != nil {
		return fmt.Errorf("unmap guest memory: %w", err)
	}
	return nil
}
