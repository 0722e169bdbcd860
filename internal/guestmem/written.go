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

// span is a run of bytes of RAM, counted without the hole; whole pages.
type span struct{ start, end uint64 }

// written returns the pages of the mapping that are its own and no layer's, ascending, with neighbours
// joined. It costs the walk through the page tables that are there, not the size of the mapping, where
// the kernel can list them (PAGEMAP_SCAN, Linux 6.7); else eight bytes a page.
func (p *Pagemap) written(mp mapping) ([]span, error) {
	p.mu.Lock()
	noScan := p.noScan
	p.mu.Unlock()
	if !noScan {
		spans, err := p.scan(mp)
		if !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.EINVAL) {
			return spans, err
		}
		p.mu.Lock()
		p.noScan = true
		p.mu.Unlock()
	}
	return p.read(mp)
}

// Bits of an entry. https://docs.kernel.org/admin-guide/mm/pagemap.html
const (
	entryPresent = 1 << 63
	entrySwapped = 1 << 62
	entryFile    = 1 << 61 // a page of a file, or shared
)

// read looks at the entry of every page. Pages of zeros that were only read look like written ones,
// which does no harm.
func (p *Pagemap) read(mp mapping) ([]span, error) {
	const chunk = 512 << 10
	buf := make([]byte, min(chunk, len(mp.mem)/PageSize*8))
	var spans []span
	at := int64(mp.address() / PageSize * 8)
	for done := 0; done < len(mp.mem)/PageSize; {
		n := min(len(buf), (len(mp.mem)/PageSize-done)*8)
		if got, err := p.file.ReadAt(buf[:n], at+int64(done)*8); err != nil && !errors.Is(err, io.EOF) || got < n {
			return nil, fmt.Errorf("read page map: %d of %d bytes: %w", got, n, errors.Join(err, io.ErrUnexpectedEOF))
		}
		for i := 0; i < n; i += 8 {
			e := binary.LittleEndian.Uint64(buf[i:])
			if e&(entryPresent|entrySwapped) != 0 && e&entryFile == 0 {
				page := uint64(done + i/8)
				spans = appendSpan(spans, span{page * PageSize, (page + 1) * PageSize})
			}
		}
		done += n / 8
	}
	return spans, nil
}

func appendSpan(spans []span, s span) []span {
	if n := len(spans); n > 0 && spans[n-1].end == s.start {
		spans[n-1].end = s.end
		return spans
	}
	return append(spans, s)
}
