// Package lease tells the sandboxes of living processes from those of dead ones.
//
// A process that owns sandboxes holds a lease: a directory with a file in it that the process has
// locked. The kernel lets go of the lock when the process ends, however it ends, so a lease whose
// lock can be taken is one whose owner is dead, and what carries its ID may be removed. PIDs are
// not used: they come back.
package lease

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/filelock"
)

const (
	lockName = "lock"
	// A lease is made under this prefix and renamed once it is locked, so that a sweeper never
	// takes a lease in the making for a dead one.
	newPrefix = ".new-"
	// What still has the prefix after so long belongs to a process that died in between.
	newGrace = time.Minute
)

// NewID returns a name that nobody else has: 16 characters a-z, 2-7, from 80 random bits.
func NewID() string {
	var b [10]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

// Lease is held by one owner in this process. Its methods may be called concurrently.
type Lease struct {
	// ID is the name of the lease, as by NewID.
	ID string
	// Dir is the lease's own directory. The owner may keep files in it; "lock" is taken.
	Dir string

	lock    *os.File
	release sync.Once
	err     error
}

// Acquire makes a lease below root, which is created if it is missing.
func Acquire(root string) (*Lease, error) {
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, fmt.Errorf("acquire lease: %w", err)
	}
	id := NewID()
	making := filepath.Join(root, newPrefix+id)
	if err := os.Mkdir(making, 0o711); err != nil {
		return nil, fmt.Errorf("acquire lease: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(making, lockName), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err == nil {
		err = filelock.Try(lock, filelock.Exclusive)
	}
	dir := filepath.Join(root, id)
	if err == nil {
		err = os.Rename(making, dir)
	}
	if err != nil {
		if lock != nil {
			lock.Close()
		}
		return nil, errors.Join(fmt.Errorf("acquire lease: %w", err), os.RemoveAll(making))
	}
	return &Lease{ID: id, Dir: dir, lock: lock}, nil
}

// Release removes the lease's directory with all it holds and lets go of the lock. It is
// idempotent. The directory is removed before the lock, so that nobody sees an unlocked rest.
func (l *Lease) Release() error {
	l.release.Do(func() {
		l.err = errors.Join(os.RemoveAll(l.Dir), l.lock.Close())
	})
	return l.err
}

// Dead returns the leases below root whose owners have died. Each is locked by the caller, so that
// two sweepers do not work on the same one: remove what belongs to its ID, then Release it. To
// leave it to a later sweeper call Abandon.
func Dead(root string) ([]*Lease, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for dead leases: %w", err)
	}
	var dead []*Lease
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(root, e.Name())
		id := e.Name()
		if rest, ok := strings.CutPrefix(id, newPrefix); ok {
			info, err := e.Info()
			if err != nil || time.Since(info.ModTime()) < newGrace {
				continue
			}
			id = rest
		}
		lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
		if errors.Is(err, os.ErrNotExist) {
			// Either not a lease, or one whose owner died between Mkdir and the lock, or while it
			// was being released: nothing can hold it, but another sweeper may be at it too, which
			// does no harm since removal is idempotent.
			if lock, err = os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
				continue
			}
		}
		if err != nil {
			return dead, fmt.Errorf("look for dead leases: %w", err)
		}
		if err := filelock.Try(lock, filelock.Exclusive); err != nil {
			lock.Close()
			continue
		}
		if !filelock.Same(lock, filepath.Join(dir, lockName)) { // released in between
			lock.Close()
			continue
		}
		dead = append(dead, &Lease{ID: id, Dir: dir, lock: lock})
	}
	return dead, nil
}

// Sweep calls remove for every dead lease below root and adds up what it removed. remove gets the
// lease as Dead returns it, and must Release or Abandon it. What is left when ctx ends is abandoned.
func Sweep(ctx context.Context, root string, remove func(context.Context, *Lease) (int, error)) (int, error) {
	dead, err := Dead(root)
	swept, errs := 0, []error{err}
	for _, l := range dead {
		if ctx.Err() != nil {
			l.Abandon()
			errs = append(errs, ctx.Err())
			continue
		}
		n, err := remove(ctx, l)
		swept += n
		errs = append(errs, err)
	}
	return swept, errors.Join(errs...)
}

// Abandon lets go of the lock and leaves the directory to a later sweeper.
func (l *Lease) Abandon() {
	l.release.Do(func() { l.err = l.lock.Close() })
}
