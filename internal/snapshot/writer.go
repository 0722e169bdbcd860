package snapshot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Writer writes one file: first its memory, then, by Finish, all the rest. Until then the file has a temporary name,
// and Abort removes it. It is for one goroutine.
type Writer struct {
	// Progress, if it is not nil, is told by WriteMemory how many bytes of how many are written.
	Progress func(done, total uint64)

	path   string
	file   *os.File
	memory uint64
	sums   []byte
	done   bool
}

// Extent says that a run of RAM has the content of a run of a source. All figures are bytes, in whole pages.
type Extent struct {
	RAM, Size uint64
	// Source and Offset say where the content is.
	Source io.ReaderAt
	Offset uint64
	// Based says that it is in a base. It is not written, but for what lies in between runs that are.
	Based bool
}

// Placed says where in the file a run of RAM is, in bytes and whole pages.
type Placed struct{ RAM, Size, Offset uint64 }

// Create begins a file that is to be at path, whose directory is there.
func Create(path string) (*Writer, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return nil, fmt.Errorf("write snapshot %s: %w", path, err)
	}
	return &Writer{path: path, file: f}, nil
}

// File is the file, whose memory is there once WriteMemory has returned. It stays the writer's.
func (w *Writer) File() *os.File { return w.file }

// Abort removes what was written. After Finish, or a second time, it does nothing.
func (w *Writer) Abort() error {
	if w.done {
		return nil
	}
	w.done = true
	return errors.Join(w.file.Close(), os.Remove(w.file.Name()))
}

// WriteMemory writes what is neither zero nor in a base of the given runs of RAM, which are in ascending order and do not
// overlap, and returns where it is, in no more than MaxRuns runs. A part of a base that is among them is to be read there.
// The sources are read twice, and must not change.
func (w *Writer) WriteMemory(ctx context.Context, extents []Extent) ([]Placed, error) {
	placed, err := w.writeMemory(ctx, extents)
	if err != nil {
		return nil, fmt.Errorf("write the memory of snapshot %s: %w", w.path, err)
	}
	return placed, nil
}

func (w *Writer) writeMemory(ctx context.Context, extents []Extent) ([]Placed, error) {
	if w.memory != 0 {
		return nil, errors.New("it was written before")
	}
	runs, err := content(ctx, extents)
	if err != nil {
		return nil, err
	}
	for _, r := range runs {
		w.memory += r.Size
	}
	// Before anything is copied: there may be no room for it.
	if err := allocate(w.file, int64(PageSize+w.memory)); err != nil {
		return nil, err
	}
	placed := make([]Placed, 0, len(runs))
	at := uint64(PageSize)
	sum := &blockSums{}
	buf := make([]byte, BlockSize)
	next := 0
	for _, r := range runs {
		placed = append(placed, Placed{RAM: r.RAM, Size: r.Size, Offset: at})
		for done := uint64(0); done < r.Size; {
			if err := ctx.Err(); err != nil {
				return nil, context.Cause(ctx)
			}
			p := buf[:min(uint64(len(buf)), r.Size-done)]
			if next, err = readRAM(extents, next, r.RAM+done, p); err != nil {
				return nil, err
			}
			if _, err := w.file.WriteAt(p, int64(at)); err != nil {
				return nil, err
			}
			sum.add(p)
			at += uint64(len(p))
			done += uint64(len(p))
			if w.Progress != nil {
				w.Progress(at-PageSize, w.memory)
			}
		}
	}
	w.sums = sum.end()
	return placed, nil
}

// allocate takes the space on disk. Where the file system cannot, a write finds out.
func allocate(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINTR) {
		return nil
	}
	return os.NewSyscallError("fallocate", err)
}

// blockSums makes the checksums of bytes that come in any pieces.
type blockSums struct {
	sums    []byte
	pending []byte
}

func (b *blockSums) add(p []byte) {
	for len(p) > 0 {
		n := min(len(p), BlockSize-len(b.pending))
		if n == BlockSize {
			b.sum(p[:n])
		} else if b.pending = append(b.pending, p[:n]...); len(b.pending) == BlockSize {
			b.sum(b.pending)
			b.pending = b.pending[:0]
		}
		p = p[n:]
	}
}

func (b *blockSums) sum(p []byte) {
	s := sha256.Sum256(p)
	b.sums = append(b.sums, s[:]...)
}

func (b *blockSums) end() []byte {
	if len(b.pending) > 0 {
		b.sum(b.pending)
		b.pending = nil
	}
	return b.sums
}

// Finish writes all but the memory, has the file written to disk, and gives it its name. The file is closed. It returns
// the file's digest.
func (w *Writer) Finish(about About, state []byte, prefetch []Run) (digest [sha256.Size]byte, err error) {
	if digest, err = w.finish(about, state, prefetch); err != nil {
		err = errors.Join(err, w.Abort())
		return digest, fmt.Errorf("write snapshot %s: %w", w.path, err)
	}
	return digest, nil
}

func (w *Writer) finish(about About, state []byte, prefetch []Run) (digest [sha256.Size]byte, err error) {
	switch {
	case w.done || w.memory == 0:
		return digest, errors.New("its memory is missing")
	case len(state) > MaxState || len(prefetch) > MaxRuns || len(about.Bases) > MaxBases:
		return digest, fmt.Errorf("%d bytes of state, %d runs of a prefetch list, %d bases: too many", len(state), len(prefetch), len(about.Bases))
	}
	if err := about.holds(w.memory); err != nil {
		return digest, err
	}
	h := header{Magic: magic, Version: Version, PageSize: PageSize, MemorySize: w.memory}
	at := PageSize + w.memory
	for i, b := range [sections][]byte{about.encode(), state, encodeRuns(prefetch), w.sums} {
		h.Sections[i] = section{Offset: at, Size: uint64(len(b)), Sum: sha256.Sum256(b)}
		if _, err := w.file.WriteAt(b, int64(at)); err != nil {
			return digest, err
		}
		at += (uint64(len(b)) + 7) &^ 7
	}
	h.FileSize = (at + PageSize - 1) &^ (PageSize - 1)
	page := h.encode()
	if _, _, err := decodeHeader(page, int64(h.FileSize)); err != nil { // what is written can be read
		return digest, err
	}
	if err := w.file.Truncate(int64(h.FileSize)); err != nil {
		return digest, err
	}
	if _, err := w.file.WriteAt(page, 0); err != nil {
		return digest, err
	}
	if err := errors.Join(w.file.Chmod(0o400), w.file.Sync()); err != nil {
		return digest, err
	}
	if err := os.Rename(w.file.Name(), w.path); err != nil {
		return digest, err
	}
	w.done = true
	copy(digest[:], page[sumPlace:])
	if err := errors.Join(w.file.Close(), syncDir(filepath.Dir(w.path))); err != nil {
		return digest, errors.Join(err, os.Remove(w.path))
	}
	return digest, nil
}

// syncDir has a directory's names written to disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
