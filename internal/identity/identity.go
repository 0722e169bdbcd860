// Package identity hands out users of the host that nobody else has, for processes that run guest
// code: one that breaks out finds neither the host's files nor another such process within reach.
package identity

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
)

// The range is one that neither login users nor container engines are given.
const (
	first = 0x6ae70000
	count = 1 << 16
)

// Identity is a user, and the group of the same number, that no other process of this host has.
type Identity struct {
	uid  uint32
	mark *net.UnixConn
}

// Take reserves a user until Release, or until this process ends. It returns nil if this process is not
// root, since it could not start anything as another user.
//
// The mark of a reservation is a socket with an abstract name: the kernel gives such a name to one at a
// time within a network namespace, and it leaves nothing behind.
func Take() (*Identity, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	start := rand.IntN(count)
	for i := range count {
		uid := uint32(first + (start+i)%count)
		name := fmt.Sprintf("@aether-uid-%d", uid)
		mark, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: name})
		switch {
		case err == nil:
			return &Identity{uid: uid, mark: mark}, nil
		case !errors.Is(err, syscall.EADDRINUSE):
			return nil, fmt.Errorf("reserve user %d: %w", uid, err)
		}
	}
	return nil, fmt.Errorf("no free user in %d to %d", first, first+count-1)
}

// UID is the number of the user, and of its group. Of nil it is this process's own user.
func (i *Identity) UID() uint32 {
	if i == nil {
		return uint32(os.Geteuid())
	}
	return i.uid
}

// Release gives the user back, once all its processes have ended. It is idempotent; on nil it does
// nothing.
func (i *Identity) Release() {
	if i != nil {
		_ = i.mark.Close()
	}
}
