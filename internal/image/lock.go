package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

// Hold keeps img from being removed until the returned value is closed, or the process ends. An
// image that lies in no store needs no hold, and gets an empty one.
func Hold(img sandbox.Image) (io.Closer, error) {
	if img.Cache == "" {
		return io.NopCloser(nil), nil
	}
	name := filepath.Join(filepath.Dir(img.Cache), lockName)
	f, err := os.Open(name)
	if err != nil {
		return nil, fail("use image", img.Digest, err)
	}
	if err := flock(f, unix.LOCK_SH|unix.LOCK_NB); err != nil || !isFile(f, name) {
		_ = f.Close()
		return nil, &sandbox.Error{Op: "use image", Err: fs.ErrNotExist, Detail: img.Digest + " is being removed",
			Remedy: "build it again with `aether image build`"}
	}
	return f, nil
}

// lockStore waits for the lock that guards changes of names and the arrival and departure of
// images. It is held for moments only.
func (s *Store) lockStore(ctx context.Context) (io.Closer, error) {
	return lockFile(ctx, filepath.Join(s.dir, lockName))
}

// lockFile takes the exclusive lock of a file, which is created if it is missing, or gives up when
// ctx ends. Closing the returned value lets go of it.
func lockFile(ctx context.Context, name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	// flock(2) that blocks cannot be given up, so it is tried again and again.
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for the lock of %s: %w", name, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// isFile tells whether name still leads to f.
func isFile(f *os.File, name string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(name)
	return err == nil && os.SameFile(a, b)
}

// allocated is the space that a file takes on disk.
func allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
