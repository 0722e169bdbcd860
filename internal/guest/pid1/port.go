package pid1

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/guest/device"
	"github.com/aethervm/aether/internal/guest/serve"
)

// portName is what the host calls the virtio-serial port.
const portName = "aether.agent"

// serialChannel is a virtio-serial port: one stream of bytes, over which operations are multiplexed.
type serialChannel struct{ path string }

// Serial is the channel of a machine with a virtio-serial port.
func Serial() Channel { return &serialChannel{} }

func (s *serialChannel) beforeModule(string) error { return nil }

func (s *serialChannel) open() (err error) {
	s.path, err = device.Port(portName)
	return err
}

func (s *serialChannel) serve(server *serve.Server) error {
	var guest agentproto.GuestPort
	for {
		if err := serveSession(s.path, &guest, server); err != nil {
			return err
		}
	}
}

// serveSession serves one host until it goes away. Only an error that would come again is returned.
func serveSession(path string, guest *agentproto.GuestPort, server *serve.Server) error {
	port, err := openPort(path)
	if err != nil {
		return err
	}
	session, err := guest.Session(port)
	if err != nil {
		_ = port.Close()
		return nil //nolint:nilerr // the host went away
	}
	defer func() { _ = session.Close() }() // it is broken anyway
	for {
		stream, err := session.Accept()
		if err != nil {
			return nil //nolint:nilerr // the host went away
		}
		go server.Serve(stream)
	}
}

// connectPoll is how often a port without a host is looked at. It is short since a restored machine
// waits for it.
const connectPoll = 2 * time.Millisecond

// openPort opens the port once a host is there.
func openPort(path string) (*os.File, error) {
	for ; ; time.Sleep(connectPoll) {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINTR) {
			continue // the file of the last session is not quite closed
		}
		if err != nil {
			return nil, fmt.Errorf("open port %s: %w", path, err)
		}
		for {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(poll, 0); err == nil && poll[0].Revents&unix.POLLHUP == 0 {
				break
			}
			time.Sleep(connectPoll)
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}
