package snapshot

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"github.com/aethervm/aether/internal/codec"
)

var magic = [8]byte{'A', 'E', 'T', 'H', 'S', 'N', 'A', 'P'}

// The sections, in the order of the file.
const (
	aboutSection = iota
	stateSection
	prefetchSection
	sumsSection
	sections
)

func sectionName(i int) string { return [sections]string{"about", "state", "prefetch", "sums"}[i] }

// section is where one is, and the digest of its bytes.
type section struct {
	Offset, Size uint64
	Sum          [sha256.Size]byte
}

func (s section) end() uint64 { return s.Offset + s.Size }

// header is the first page, without the digest that ends it.
type header struct {
	Magic      [8]byte
	Version    uint32
	PageSize   uint32
	FileSize   uint64 // bytes, whole pages
	MemorySize uint64 // bytes, whole pages; memory begins at the second page
	Sections   [sections]section
}

// sumPlace is where the header's own digest is: of all that is before it.
const sumPlace = PageSize - sha256.Size

func (h *header) encode() []byte {
	page := make([]byte, PageSize)
	copy(page, codec.Append(nil, *h))
	sum := sha256.Sum256(page[:sumPlace])
	copy(page[sumPlace:], sum[:])
	return page
}

// decodeHeader checks the first page of a file of the given size in bytes.
func decodeHeader(page []byte, fileSize int64) (h header, digest [sha256.Size]byte, err error) {
	if len(page) < len(magic)+4 || !bytes.Equal(page[:len(magic)], magic[:]) {
		return h, digest, fmt.Errorf("%w: it does not begin as one", ErrFormat)
	}
	d := codec.NewDecoder(page)
	d.Value(&h.Magic)
	d.Value(&h.Version)
	if h.Version != Version { // whatever else differs then
		return h, digest, fmt.Errorf("%w: format %d; this program reads format %d", ErrVersion, h.Version, Version)
	}
	if len(page) < PageSize {
		return h, digest, fmt.Errorf("%w: %d bytes of the header's %d", ErrTruncated, len(page), PageSize)
	}
	digest = sha256.Sum256(page[:sumPlace])
	if !bytes.Equal(digest[:], page[sumPlace:]) {
		return h, digest, fmt.Errorf("%w: of the header", ErrChecksum)
	}
	d = codec.NewDecoder(page)
	d.Value(&h)
	return h, digest, h.check(fileSize)
}

// check holds a header to its file: sections follow the memory and each other, and are within the file and their bounds.
func (h *header) check(fileSize int64) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
	}
	switch {
	case h.PageSize != PageSize:
		return bad("pages of %d bytes", h.PageSize)
	case h.MemorySize == 0 || h.MemorySize%PageSize != 0 || h.MemorySize > maxMemory:
		return bad("%d bytes of memory", h.MemorySize)
	case h.FileSize%PageSize != 0 || h.FileSize > 2*maxMemory:
		return bad("%d bytes", h.FileSize)
	case uint64(fileSize) < h.FileSize:
		return fmt.Errorf("%w: %d bytes of %d", ErrTruncated, fileSize, h.FileSize)
	case uint64(fileSize) > h.FileSize:
		return bad("%d bytes follow its end", uint64(fileSize)-h.FileSize)
	}
	limits := [sections]uint64{maxAbout, MaxState, maxPrefetch, blocks(h.MemorySize) * sha256.Size}
	at := PageSize + h.MemorySize
	for i, s := range h.Sections {
		if s.Offset < at || s.Size > limits[i] || s.Offset > h.FileSize || s.Size > h.FileSize-s.Offset {
			return bad("section %s of %d bytes at %d", sectionName(i), s.Size, s.Offset)
		}
		at = s.end()
	}
	if s := h.Sections[sumsSection]; s.Size != limits[sumsSection] {
		return bad("%d bytes of checksums", s.Size)
	}
	return nil
}

// blocks is how many checksums memory of so many bytes has.
func blocks(memory uint64) uint64 { return (memory + BlockSize - 1) / BlockSize }
