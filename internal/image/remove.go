package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/aethervm/aether/internal/filelock"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// ErrInUse says that somebody holds the image.
var ErrInUse = errors.New("image in use")

// Remove takes a name away, and with its last name the image; given a digest, the image with all
// its names. An image that is held is refused with an error that wraps ErrInUse.
func (s *Store) Remove(ctx context.Context, nameOrDigest string) (err error) {
	defer func() {
		if err != nil {
			err = fail("remove image", nameOrDigest, err)
		}
	}()
	if _, err := s.find(nameOrDigest); err != nil { // before anything is made in the store
		return err
	}
	if _, err := s.Sweep(); err != nil {
		return err
	}
	work, err := lease.Acquire(filepath.Join(s.dir, tmpName))
	if err != nil {
		return err
	}
	// Files are deleted after the lock of the store has been given back: it may take a while.
	defer func() { err = errors.Join(err, work.Release()) }()
	return s.detach(ctx, nameOrDigest, work.Dir)
}

// detach removes names and moves the image into the directory work, which is about to be deleted.
func (s *Store) detach(ctx context.Context, ref, work string) (err error) {
	lock, err := s.lockStore(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	digest, err := s.find(ref)
	if err != nil {
		return err
	}
	all, err := s.names()
	if err != nil {
		return err
	}
	names := all[digest]
	if !strings.HasPrefix(ref, digestPrefix) && len(names) > 1 {
		return os.Remove(s.namePath(ref))
	}
	dir := s.path(digest)
	use, err := filelock.Open(filepath.Join(dir, lockName), filelock.Exclusive, 0o644)
	if errors.Is(err, filelock.ErrHeld) {
		return &sandbox.Error{Op: "remove image", Err: ErrInUse, Detail: ref, Remedy: "close the sandboxes that use it first"}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, use.Close()) }()
	for _, name := range names {
		if err := os.Remove(s.namePath(name)); err != nil {
			return err
		}
	}
	return os.Rename(dir, filepath.Join(work, "image"))
}
