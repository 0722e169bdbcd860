package guestmem

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNotSealed is about a memfd that was offered as a layer and could still be written or resized.
var ErrNotSealed = errors.New("guestmem: layer is not sealed")

// The seals of a memory file. Its size never changes: a page that is cut off while it is mapped
// raises SIGBUS in whoever touches it.
const (
	sizeSeals  = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW
	layerSeals = sizeSeals | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	// neededSeals are those without which a file of somebody else is no layer.
	neededSeals = layerSeals &^ unix.F_SEAL_SEAL
)

// Layer is an immutable memory file. A memfd's is sealed, so that the kernel refuses every write. A
// file on disk cannot be: who makes a layer of one promises that nobody writes or truncates it while
// a fork of it lives, since the change would show through in the fork's untouched pages. Its methods
// may be called concurrently, but not with Close.
type Layer struct {
	file *os.File
	size uint64
}

// OpenLayer makes a layer of a sealed memfd or of a file on disk, open for reading. It takes over
// the file, also when it fails.
func OpenLayer(file *os.File) (*Layer, error) {
	l, err := openLayer(file)
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("open memory layer %s: %w", file.Name(), err)
	}
	return l, nil
}

func openLayer(file *os.File) (*Layer, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	size := uint64(max(info.Size(), 0))
	if !info.Mode().IsRegular() || size == 0 || size%PageSize != 0 || size > MaxSize {
		return nil, fmt.Errorf("%w: %s of %d bytes", ErrSize, info.Mode().Type(), info.Size())
	}
	seals, isMemfd, err := sealsOf(file)
	if err != nil {
		return nil, err
	}
	if isMemfd && seals&neededSeals != neededSeals {
		return nil, fmt.Errorf("%w: seals %#x", ErrNotSealed, seals)
	}
	return &Layer{file: file, size: size}, nil
}

// Size is in bytes, whole pages.
func (l *Layer) Size() uint64 { return l.size }

// File is the layer's file, for handing it to another process. It stays the layer's.
func (l *Layer) File() *os.File { return l.file }

// Extent is the whole layer as the content of RAM from its start.
func (l *Layer) Extent() Extent { return Extent{Size: l.size, Layer: l} }

// ReadAt reads the layer's content, as io.ReaderAt.
func (l *Layer) ReadAt(p []byte, off int64) (int, error) { return l.file.ReadAt(p, off) }

// view is a layer's content, for the kernel to copy from: in place of reading it, which would copy it once more. A page
// that the file does not have any more, or that cannot be read, is an error of that copy. A hole of a memfd gets memory when it is
// read so, which only the layer of a memory of New has where an extent is.
type view struct{ mem []byte }

func (l *Layer) view() (v *view, err error) {
	err = control(l.file, func(fd int) error {
		mem, err := unix.Mmap(fd, 0, int(l.size), unix.PROT_READ, unix.MAP_SHARED)
		v = &view{mem}
		return err
	})
	return v, err
}

func (v *view) close() error { return unix.Munmap(v.mem) }

// Close closes the layer's file. Forks made from it live on.
func (l *Layer) Close() error { return l.file.Close() }

func (l *Layer) mapInto(mp mapping, e Extent) error {
	return mp.file(e.RAM, e.Size, l.file, e.Offset, unix.MAP_PRIVATE)
}

// memfd makes an unnamed file of the given size that can neither grow nor shrink nor be executed.
func memfd(size uint64) (*os.File, error) {
	const name = "aether-guest-memory"
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("make guest memory: memfd_create: %w", err)
	}
	file := os.NewFile(uintptr(fd), name)
	err = file.Truncate(int64(size))
	if err == nil {
		err = addSeals(file, sizeSeals)
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("make guest memory of %d bytes: %w", size, err)
	}
	return file, nil
}

// emptyFile gives a file of the caller the size of the memory.
func emptyFile(file *os.File, size uint64) error {
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("make guest memory: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() != 0 {
		return fmt.Errorf("make guest memory: %w: %s is not an empty regular file", ErrSize, file.Name())
	}
	if err := file.Truncate(int64(size)); err != nil {
		return fmt.Errorf("make guest memory: %w", err)
	}
	return nil
}

// IsSealed tells whether a file is a memfd that nobody can write or resize any more, so that it can be a layer
// whoever has made it.
func IsSealed(file *os.File) bool {
	seals, isMemfd, err := sealsOf(file)
	return err == nil && isMemfd && seals&neededSeals == neededSeals
}

// seal makes the content of a memory file final.
func seal(file *os.File) error {
	if _, isMemfd, err := sealsOf(file); err != nil || !isMemfd {
		return err
	}
	return addSeals(file, layerSeals)
}

func addSeals(file *os.File, seals int) error {
	return control(file, func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		if err != nil {
			return fmt.Errorf("seal %s: %w", file.Name(), err)
		}
		return nil
	})
}

// sealsOf returns the seals of a file; only files in memory can have some.
func sealsOf(file *os.File) (seals int, isMemfd bool, err error) {
	err = control(file, func(fd int) error {
		var err error
		seals, err = unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
		return err
	})
	switch {
	case errors.Is(err, unix.EINVAL):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("get seals of %s: %w", file.Name(), err)
	}
	return seals, true, nil
}

// control calls f with the file's descriptor, which stays open meanwhile.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	if controlErr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}
