package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
)

// File is an open snapshot whose memory is not read yet. Its methods may be called concurrently.
type File struct {
	About About
	// State is opaque here, and what it says of memory is for its reader to check.
	State []byte
	// Prefetch are the runs of RAM that a copy touches first, ascending.
	Prefetch []Run

	file   *os.File
	header header
	digest [sha256.Size]byte
}

// Open opens a snapshot and checks all of it but its memory. The directory that it is in is not believed either: see
// OpenRegular.
func Open(path string) (*File, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	s, err := read(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open snapshot %s: %w", path, err), f.Close())
	}
	return s, nil
}

func read(f *os.File) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s, err := decode(f, info.Size())
	if err != nil {
		return nil, err
	}
	s.file = f
	return s, nil
}

// decode reads all but the memory of a file of so many bytes.
func decode(r io.ReaderAt, size int64) (*File, error) {
	page := make([]byte, PageSize)
	n, err := r.ReadAt(page, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	s := &File{}
	if s.header, s.digest, err = decodeHeader(page[:n], size); err != nil {
		return nil, err
	}
	var parts [sumsSection][]byte
	for i := range parts {
		if parts[i], err = s.section(r, i); err != nil {
			return nil, err
		}
	}
	s.State = parts[stateSection]
	if s.About, err = decodeAbout(parts[aboutSection]); err != nil {
		return nil, err
	}
	// Before anything is read whose size depends on it.
	if err := s.About.holds(s.header.MemorySize); err != nil {
		return nil, err
	}
	if err := s.checkSums(r); err != nil {
		return nil, err
	}
	s.Prefetch, err = decodeRuns(parts[prefetchSection], uint64(s.About.MemoryMiB)<<20)
	return s, err
}

// section reads a section, which is no larger than its bound, and checks it.
func (s *File) section(r io.ReaderAt, i int) ([]byte, error) {
	at := s.header.Sections[i]
	b := make([]byte, at.Size)
	if _, err := io.ReadFull(io.NewSectionReader(r, int64(at.Offset), int64(at.Size)), b); err != nil {
		return nil, tooShort(sectionName(i), err)
	}
	if sha256.Sum256(b) != at.Sum {
		return nil, fmt.Errorf("%w: of section %s", ErrChecksum, sectionName(i))
	}
	return b, nil
}

// checkSums checks the section of checksums, which grows with the memory and is not kept.
func (s *File) checkSums(r io.ReaderAt) error {
	at := s.header.Sections[sumsSection]
	h := sha256.New()
	if _, err := io.CopyN(h, io.NewSectionReader(r, int64(at.Offset), int64(at.Size)), int64(at.Size)); err != nil {
		return tooShort(sectionName(sumsSection), err)
	}
	if !bytes.Equal(h.Sum(nil), at.Sum[:]) {
		return fmt.Errorf("%w: of section %s", ErrChecksum, sectionName(sumsSection))
	}
	return nil
}

func tooShort(what string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: in section %s", ErrTruncated, what)
	}
	return fmt.Errorf("read section %s: %w", what, err)
}

// Sum is the digest.
func (s *File) Sum() [sha256.Size]byte { return s.digest }

// Digest names the content: "sha256:" and 64 hexadecimal digits.
func (s *File) Digest() string { return Digest(s.digest) }

// Digest is the text of a digest that Finish has returned.
func Digest(sum [sha256.Size]byte) string { return "sha256:" + hex.EncodeToString(sum[:]) }

// File is the file, for mapping its memory. It stays the snapshot's.
func (s *File) File() *os.File { return s.file }

// Memory is where the memory is in the file, in bytes.
func (s *File) Memory() (offset, size uint64) { return PageSize, s.header.MemorySize }

// Fits tells whether the machine can go on where state and agent are of these versions and the processor is that one.
func (s *File) Fits(state, agent uint32, here CPU) error {
	if s.About.StateVersion != state || s.About.AgentVersion != agent {
		return fmt.Errorf("%w: its state is of version %d and its agent of version %d, written by aether %q; this program has %d and %d",
			ErrVersion, s.About.StateVersion, s.About.AgentVersion, s.About.Program, state, agent)
	}
	return s.About.CPU.Fits(here)
}

// Verify reads the memory and compares it with its checksums. The error wraps ErrChecksum and says where the first
// difference is.
func (s *File) Verify(ctx context.Context) error {
	if err := s.verify(ctx, s.file); err != nil {
		return fmt.Errorf("verify snapshot %s: %w", s.file.Name(), err)
	}
	return nil
}

func (s *File) verify(ctx context.Context, r io.ReaderAt) error {
	buf := make([]byte, BlockSize)
	sums := io.NewSectionReader(r, int64(s.header.Sections[sumsSection].Offset), int64(s.header.Sections[sumsSection].Size))
	for at := uint64(0); at < s.header.MemorySize; at += BlockSize {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var want [sha256.Size]byte
		if _, err := io.ReadFull(sums, want[:]); err != nil {
			return tooShort(sectionName(sumsSection), err)
		}
		p := buf[:min(BlockSize, s.header.MemorySize-at)]
		if _, err := io.ReadFull(io.NewSectionReader(r, int64(PageSize+at), int64(len(p))), p); err != nil {
			return tooShort("memory", err)
		}
		if sha256.Sum256(p) != want {
			return fmt.Errorf("%w: of its memory, within %d bytes from %d on", ErrChecksum, len(p), PageSize+at)
		}
	}
	return nil
}

// Close closes the file. Machines that have it mapped live on. It is idempotent.
func (s *File) Close() error {
	if err := s.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
