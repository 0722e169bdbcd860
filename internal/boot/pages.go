package boot

import (
	"fmt"
	"io"

	"github.com/aethervm/aether/internal/guestmem"
)

// Run is a run of whole pages of a kernel file and its place in guest memory. All figures are bytes.
type Run struct {
	GPA, Offset, Size uint64
}

// Pages returns the parts of the file that can be mapped as guest memory in place of being copied: whole
// pages with nothing else in them, ascending as in the file. There are none in a kernel that is unpacked
// first.
func (k *Kernel) Pages() []Run {
	if k.unpacked {
		return nil
	}
	var runs []Run
	for _, s := range k.segments {
		if r := s.pages(); r.Size > 0 {
			runs = append(runs, r)
		}
	}
	return runs
}

// pages is the part of a segment that is whole pages in the file and in memory.
func (s segment) pages() Run {
	const page = guestmem.PageSize
	if s.off%page != s.mem.GPA%page {
		return Run{}
	}
	head := -s.mem.GPA % page
	if head >= s.fileSize {
		return Run{}
	}
	return Run{GPA: s.mem.GPA + head, Offset: s.off + head, Size: (s.fileSize - head) &^ (page - 1)}
}

// load copies the segments into fresh memory, which is zero but for the kernel's Pages if those are mapped
// there; the parts without content stay untouched.
func (k *Kernel) load(mem *guestmem.Memory, mapped bool) error {
	for _, s := range k.segments {
		place, err := mem.Slice(s.mem.GPA, s.mem.Size)
		if err != nil {
			return fmt.Errorf("%w: kernel of %d bytes at %#x: %w", ErrNoRoom, k.span.Size, k.span.GPA, err)
		}
		copied := func(from, to uint64) error {
			return copySparse(place[from:to], io.NewSectionReader(s.src, int64(s.off+from), int64(to-from)))
		}
		if r := s.pages(); mapped && !k.unpacked && r.Size > 0 {
			start := r.GPA - s.mem.GPA
			if err = copied(0, start); err == nil {
				err = copied(start+r.Size, s.fileSize)
			}
		} else {
			err = copied(0, s.fileSize)
		}
		if err != nil {
			return fmt.Errorf("load kernel segment at %#x: %w", s.mem.GPA, err)
		}
	}
	return nil
}
