// Package pid1 is the init process of a virtual machine: it turns an initramfs and a read-only disk
// into a running system and then serves the host over a port.
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

// Run boots the machine and serves it. It returns only an error: when it does, the machine is of no
// use, and the kernel panics when PID 1 ends, which the host sees.
func Run() error {
	if os.Getpid() != 1 {
		return errors.New("init: not PID 1 of a machine")
	}
	m, err := boot()
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	go m.reaper.run()
	server := &serve.Server{Machine: m}
	port, err := findPort(portName)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	var guest agentproto.GuestPort
	for {
		if err := serveSession(port, &guest, server); err != nil {
			return fmt.Errorf("init: %w", err)
		}
	}
}

// boot mounts everything and makes the machine that programs run on.
func boot() (*machine, error) {
	if err := mountKernelFilesystems(); err != nil {
		return nil, err
	}
	if err := loadModules(moduleList); err != nil {
		return nil, err
	}
	changes, err := switchRoot()
	if err != nil {
		return nil, err
	}
	if err := loopbackUp(); err != nil {
		return nil, err
	}
	groups, err := openCgroups()
	if err != nil {
		return nil, err
	}
	return newMachine(groups, changes), nil
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
