package aethervm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
)

// thawFiles is how many descriptors a connection to the agent takes, and one more.
const thawFiles = 4

// reserve keeps descriptors for the request to thaw: without any left, programs that were frozen would stand still. f is any
// file. They are free once release is called.
func reserve(f *os.File) (release func(), err error) {
	var kept []int
	release = func() {
		for _, fd := range kept {
			_ = unix.Close(fd)
		}
		kept = nil
	}
	for range thawFiles {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			release()
			return nil, fmt.Errorf("keep descriptors for the thaw: %w", err)
		}
		kept = append(kept, fd)
	}
	return release, nil
}

// thaw lets the programs go on. Where the host has not enough of something to ask for that, it asks again until ctx ends.
func (s *Sandbox) thaw(ctx context.Context) error {
	for {
		err := s.Client.Thaw(ctx, agentproto.Config{})
		if err == nil || ctx.Err() != nil || !lacking(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the programs stand still: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lacking tells whether an error means that the host has run out of something, for now.
func lacking(err error) bool {
	for _, kind := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
