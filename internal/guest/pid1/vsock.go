package pid1

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/guest/serve"
)

// vsockDriver is the module with which a guest's sockets begin to work.
const vsockDriver = "vmw_vsock_virtio_transport"

// backlog is how many connections may wait while the agent boots, or is busy.
const backlog = 128

// acceptPause is how long a machine without room for another connection waits.
const acceptPause = 10 * time.Millisecond

// vsockChannel is a socket to which the host connects, once for each operation.
type vsockChannel struct {
	listener *os.File // nil until it listens
}

// Vsock is the channel of a machine with sockets to its host.
func Vsock() Channel { return &vsockChannel{} }

// beforeModule listens before there is a driver: the host's request for a connection waits for the
// driver and is then granted at once, so that neither side has to try again, or to tell the other one
// that it is ready.
func (v *vsockChannel) beforeModule(name string) error {
	if name != vsockDriver {
		return nil
	}
	return v.listen()
}

func (v *vsockChannel) open() error {
	if v.listener != nil {
		return nil
	}
	return v.listen() // the driver is in the kernel
}

func (v *vsockChannel) listen() error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open a socket to the host: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: agentproto.Port})
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("listen on vsock port %d: %w", agentproto.Port, err), unix.Close(fd))
	}
	v.listener = os.NewFile(uintptr(fd), "vsock listener")
	return nil
}

func (v *vsockChannel) serve(server *serve.Server) error {
	for {
		conn, err := v.accept()
		if err != nil {
			return err
		}
		if conn != nil {
			go server.Serve(conn)
		}
	}
}

// accept returns the next connection; nil if it was not the host's or is gone.
func (v *vsockChannel) accept() (*os.File, error) {
	raw, err := v.listener.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var from unix.Sockaddr
	waitErr := raw.Read(func(listener uintptr) bool {
		fd, from, err = unix.Accept4(int(listener), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return !errors.Is(err, unix.EAGAIN)
	})
	if waitErr != nil {
		return nil, waitErr
	}
	switch {
	case err == nil:
	case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.ECONNRESET):
		return nil, nil
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		time.Sleep(acceptPause) // it waits in the backlog until something else has ended
		return nil, nil
	default:
		return nil, fmt.Errorf("accept a connection of the host: %w", err)
	}
	// A program in the guest could reach the port too, if the kernel had a loopback.
	if peer, ok := from.(*unix.SockaddrVM); !ok || peer.CID != unix.VMADDR_CID_HOST {
		return nil, unix.Close(fd)
	}
	return os.NewFile(uintptr(fd), "connection to the host"), nil
}
