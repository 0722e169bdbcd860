package aethervm

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/snapshot"
)

// A snapshot of a copy has most of its memory in common with what it is a copy of, which is a file already: its base. Its
// directory has a hard link to that file, named after the content. So the kernel counts who needs a base, also when a process
// is killed: it is there for as long as a template, or a snapshot, or a running copy has it; who copies the directory as a
// whole has all that there is to have. Where no link can be made, on another file system, the snapshot has all of its memory
// itself.

// basePrefix begins the names of bases; the digest in hexadecimal follows.
const basePrefix = "base-"

// base is a file that the memory of machines is mapped from, and that was found whole.
type base struct {
	file *os.File
	sum  [32]byte
	// found is what the file was when it was found whole.
	found stamp
	size  uint64 // of its memory, bytes
}

// bases are those of a machine and its copies, which share them.
type bases struct {
	list []base

	mu   sync.Mutex
	uses int
}

// baseOf takes a file that was found whole over.
func baseOf(f *snapshot.File) (base, error) {
	found, err := stampOf(f.File(), f.Digest())
	if err != nil {
		return base{}, err
	}
	file, err := duplicate(f.File())
	if err != nil {
		return base{}, err
	}
	_, size := f.Memory()
	return base{file: file, sum: f.Sum(), found: found, size: size}, nil
}

// newBases makes bases of files that were found whole, with one user. The files stay the caller's.
func newBases(files ...*snapshot.File) (*bases, error) {
	b := &bases{uses: 1}
	for _, f := range files {
		one, err := baseOf(f)
		if err != nil {
			return nil, errors.Join(err, b.release())
		}
		b.list = append(b.list, one)
	}
	return b, nil
}

// hold counts one more user. It may be called on nil, which are none.
func (b *bases) hold() *bases {
	if b != nil {
		b.mu.Lock()
		b.uses++
		b.mu.Unlock()
	}
	return b
}

// release is to be called once for each user.
func (b *bases) release() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.uses--; b.uses > 0 {
		return nil
	}
	var errs []error
	for _, one := range b.list {
		errs = append(errs, one.file.Close())
	}
	b.list = nil
	return errors.Join(errs...)
}

// all returns the bases, none once the last user has released them.
func (b *bases) all() []base {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.list
}

func filesOf(list []base) []*os.File {
	files := make([]*os.File, len(list))
	for i, one := range list {
		files[i] = one.file
	}
	return files
}

// worthKeeping is the part of a base's memory that has to be in use, as a divisor: of less than that a copy is written, so that
// a small rest does not hold on to a large file.
const worthKeeping = 4

// choose returns which of these bases a snapshot is to lean on, that has so many bytes of its memory in each: no more than
// snapshot.MaxBases, those with most. The others are written to it.
func choose(from []base, shared []uint64) []base {
	var worth []int
	for i, n := range shared {
		if n > 0 && n*worthKeeping >= from[i].size {
			worth = append(worth, i)
		}
	}
	slices.SortFunc(worth, func(x, y int) int { return cmp.Compare(shared[y], shared[x]) })
	var list []base
	for _, i := range worth[:min(len(worth), snapshot.MaxBases)] {
		list = append(list, from[i])
	}
	return list
}

func baseName(sum [32]byte) string { return basePrefix + hex.EncodeToString(sum[:]) }

func stampNameOf(name string) string { return name + stampSuffix }

// link has the directory hold on to a base, which it then has by its name. It tells whether that could be done: not if the
// directory is on another file system, or nobody has the file any more.
func (b base) link(dir string) (bool, error) {
	now, err := stampOf(b.file, b.found.Digest)
	if err != nil {
		return false, err
	}
	if !now.same(b.found) {
		return false, fmt.Errorf("%w: %s was written to since it was opened", snapshot.ErrChecksum, b.file.Name())
	}
	// By the descriptor: what is at the name by now may be something else.
	from := fmt.Sprintf("/proc/self/fd/%d", b.file.Fd())
	err = unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, filepath.Join(dir, baseName(b.sum)), unix.AT_SYMLINK_FOLLOW)
	switch {
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EPERM), errors.Is(err, unix.EMLINK),
		errors.Is(err, unix.EOPNOTSUPP):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("hold on to the base %s: %w", b.file.Name(), err)
	}
	if now, err = stampOf(b.file, b.found.Digest); err != nil {
		return true, err
	}
	if now.same(b.found) { // else it is read when it is opened
		_ = now.write(dir, stampNameOf(baseName(b.sum)))
	}
	return true, nil
}

// linkBases chooses bases for what was branched, and has the directory hold on to them.
func (o original) linkBases(dir string) (files []*os.File, sums [][32]byte, err error) {
	from := o.bases.all()
	if len(from) == 0 {
		return nil, nil, nil
	}
	shared, err := o.branch.Shared(filesOf(from)...)
	if err != nil {
		return nil, nil, err
	}
	for _, b := range choose(from, shared) {
		linked, err := b.link(dir)
		if err != nil {
			return nil, nil, err
		}
		if linked {
			files, sums = append(files, b.file), append(sums, b.sum)
		}
	}
	return files, sums, nil
}

// openBases opens the files that one leans on, which are in the same directory.
func openBases(dir string, f *snapshot.File) (list []*snapshot.File, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, closeFiles(list))
			list = nil
		}
	}()
	for _, sum := range f.About.Bases {
		b, err := snapshot.Open(filepath.Join(dir, baseName(sum)))
		if errors.Is(err, os.ErrNotExist) {
			return list, fmt.Errorf("%w: its base %s is missing", snapshot.ErrFormat, snapshot.Digest(sum))
		}
		if err != nil {
			return list, fmt.Errorf("its base: %w", err)
		}
		list = append(list, b)
		if b.Sum() != sum {
			return list, fmt.Errorf("%w: its base %s has the content %s", snapshot.ErrChecksum, snapshot.Digest(sum), b.Digest())
		}
	}
	return list, nil
}

func closeFiles(list []*snapshot.File) error {
	var errs []error
	for _, f := range list {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// isKept tells whether a name is that of a file that a machine on disk has.
func isKept(name string) bool {
	name = strings.TrimSuffix(name, stampSuffix)
	if name == machineName {
		return true
	}
	hexed, ok := strings.CutPrefix(name, basePrefix)
	sum, err := hex.DecodeString(hexed)
	return ok && err == nil && len(sum) == 32
}
