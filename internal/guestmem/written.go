package guestmem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Pagemap tells which pages of this process's private mappings are its own. It is a file, so that a
// process can open it before it gives up the right to open files. Its methods may be called
// concurrently.
type Pagemap struct {
	file *os.File

	mu     sync.Mutex
	noScan bool // the kernel has no PAGEMAP_SCAN
}

// OpenPagemap opens this process's page map.
func OpenPagemap() (*Pagemap, error) {
	file, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil, fmt.Errorf("open page map: %w", err)
	}
	return NewPagemap(file), nil
}

// NewPagemap takes over /proc/self/pagemap, open for reading: of a process that opened it while it could.
func NewPagemap(file *os.File) *Pagemap { return &Pagemap{file: file} }

// Close closes the file.
func (p *Pagemap) Close() error { return p.file.Close() }

// written returns the pages of the mapping that are its own and no layer's, ascending, with neighbours
// joined. It costs the walk through the page tables that are there, not the size of the mapping, where
// the kernel can list them (PAGEMAP_SCAN, Linux 6.7); else eight bytes a page.
func (p *Pagemap) written(mp mapping) ([]span, error) {
	return scanned(p, func() ([]span, error) { return p.scan(mp) }, func() ([]span, error) { return p.read(mp) })
}

// scanned returns what scan does or, on a kernel that cannot list pages, what read does.
func scanned[T any](p *Pagemap, scan, read func() ([]T, error)) ([]T, error) {
	p.mu.Lock()
	noScan := p.noScan
	p.mu.Unlock()
	if !noScan {
		list, err := scan()
		if !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.EINVAL) {
			return list, err
		}
		p.mu.Lock()
		p.noScan = true
		p.mu.Unlock()
	}
	return read()
}

// Bits of an entry. https://docs.kernel.org/admin-guide/mm/pagemap.html
const (
	entryPresent = 1 << 63
	entrySwapped = 1 << 62
	entryFile    = 1 << 61 // a page of a file, or shared
)

// read looks at the entry of every page. Pages of zeros that were only read look like written ones,
// which does no harm.
func (p *Pagemap) read(mp mapping) (spans []span, err error) {
	err = p.entries(mp, func(s span, e uint64) {
		if e&entryFile == 0 {
			spans = appendSpan(spans, s)
		}
	})
	return spans, err
}

// readPresent is read for the pages that are mapped at all.
func (p *Pagemap) readPresent(mp mapping) (touched []Touched, err error) {
	err = p.entries(mp, func(s span, e uint64) {
		if e&entryPresent != 0 {
			touched = appendTouched(touched, Touched{s.start, s.end - s.start, e&entryFile == 0})
		}
	})
	return touched, err
}

// entries reads the entry of every page, and tells of those that are somewhere.
func (p *Pagemap) entries(mp mapping, each func(page span, entry uint64)) error {
	// To fault in a large buffer takes longer than to read more often.
	const chunk = 16 << 10
	buf := make([]byte, min(chunk, len(mp.mem)/PageSize*8))
	at := int64(mp.address() / PageSize * 8)
	for done := 0; done < len(mp.mem)/PageSize; {
		n := min(len(buf), (len(mp.mem)/PageSize-done)*8)
		if got, err := p.file.ReadAt(buf[:n], at+int64(done)*8); err != nil && !errors.Is(err, io.EOF) || got < n {
			return fmt.Errorf("read page map: %d of %d bytes: %w", got, n, errors.Join(err, io.ErrUnexpectedEOF))
		}
		for i := 0; i < n; i += 8 {
			entry := binary.LittleEndian.Uint64(buf[i:])
			if entry&(entryPresent|entrySwapped) == 0 {
				continue
			}
			page := uint64(done + i/8)
			each(span{page * PageSize, (page + 1) * PageSize}, entry)
		}
		done += n / 8
	}
	return nil
}
