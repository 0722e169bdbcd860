// Package filelock locks files with flock(2), which the kernel undoes when a process ends, however it ends.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// How a file is locked.
type How int

// One holder alone, or any number that share.
const (
	Exclusive How = unix.LOCK_EX
	Shared    How = unix.LOCK_SH
)

// ErrHeld says that somebody else holds the lock.
var ErrHeld = errors.New("locked by another process")

// poll bounds the time between two tries: flock(2) that blocks cannot be given up.
const poll = 100 * time.Millisecond

// Try takes the lock of f, which holds until f is closed. It does not wait: ErrHeld says that somebody else has it.
func Try(f *os.File, how How) error {
	for {
		switch err := unix.Flock(int(f.Fd()), int(how)|unix.LOCK_NB); {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrHeld
		default:
			return os.NewSyscallError("flock", err)
		}
	}
}

// Open opens the file at name, which is created with these permissions if it is missing, and takes its lock as Try does.
func Open(name string, how How, perm os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|os.O_CREATE, perm)
	if err != nil {
		return nil, err
	}
	if err := Try(f, how); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return f, nil
}

// Wait takes the lock of the file at name, which is created with these permissions if it is missing. It waits
// until ctx ends, and calls held, if it is not nil, once it has to wait. Closing the file lets go of it.
func Wait(ctx context.Context, name string, how How, perm os.FileMode, held func()) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|os.O_CREATE, perm)
	if err != nil {
		return nil, err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, poll) {
		err := Try(f, how)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, ErrHeld) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
		}
		if held != nil {
			held()
			held = nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for the lock of %s: %w", name, context.Cause(ctx)), f.Close())
		case <-time.After(wait):
		}
	}
}

// Same tells whether name still leads to f: a lock of a file that has been removed or replaced protects nothing.
func Same(f *os.File, name string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(name)
	return err == nil && os.SameFile(a, b)
}
