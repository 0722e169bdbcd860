package pid1

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// interfaceUp brings an interface up.
func interfaceUp(socket int, name string) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, req); err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("interface %s up: %w", name, err)
	}
	return nil
}

func withSocket(f func(socket int) error) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	return errors.Join(f(socket), unix.Close(socket))
}

func loopbackUp() error {
	return withSocket(func(socket int) error { return interfaceUp(socket, "lo") })
}
