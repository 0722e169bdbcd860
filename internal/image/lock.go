package image

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/aethervm/aether/internal/filelock"
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
	if err := filelock.Try(f, filelock.Shared); err != nil || !filelock.Same(f, name) {
		_ = f.Close()
		return nil, &sandbox.Error{Op: "use image", Err: fs.ErrNotExist, Detail: img.Digest + " is being removed",
			Remedy: "build it again with `aether image build`"}
	}
	return f, nil
}

// lockStore waits for the lock that guards changes of names and the arrival and departure of
// images. It is held for moments only.
func (s *Store) lockStore(ctx context.Context) (io.Closer, error) {
	return filelock.Wait(ctx, filepath.Join(s.dir, lockName), filelock.Exclusive, 0o644, nil)
}

// allocated is the space that a file takes on disk.
func allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
