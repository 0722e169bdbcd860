package boot

import (
	"fmt"
	"io"
)

// Blob is a file's content: *bytes.Reader, *io.SectionReader.
type Blob interface {
	io.ReaderAt
	Size() int64
}

// readRange reads n bytes at off, which a file's header has named: they must be there, and be no
// more than limit. what is for the error.
func readRange(b Blob, off, n uint64, limit uint64, what string) ([]byte, error) {
	size := uint64(max(b.Size(), 0))
	if n > limit {
		return nil, fmt.Errorf("%w: %s of %d bytes exceeds %d", ErrFormat, what, n, limit)
	}
	if off > size || n > size-off {
		return nil, fmt.Errorf("%w: %s of %d bytes at offset %#x exceeds the file of %d bytes", ErrFormat, what, n, off, size)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(b, int64(off), int64(n)), data); err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	return data, nil
}
