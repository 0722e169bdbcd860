package pid1

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
)

// cardName is the kernel's name for the only network card.
const cardName = "eth0"

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

// setUpNetwork gives the network card its addresses, in place of those that it has.
func setUpNetwork(n agentproto.Network) error {
	if err := setUpCard(cardName, n); err != nil {
		return fmt.Errorf("set up the network: %w", err)
	}
	if err := writeResolver("/etc/resolv.conf", n.Gateway); err != nil {
		return fmt.Errorf("set up the network: %w", err)
	}
	return nil
}

func setUpCard(name string, n agentproto.Network) (err error) {
	link, err := openNetlink()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, link.close()) }()
	return withSocket(func(socket int) error {
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, req); err != nil {
			return fmt.Errorf("network card %s: %w", name, err)
		}
		index := int(req.Uint32())
		if err := link.setLink(index, n.MAC); err != nil {
			return fmt.Errorf("network card %s: set %v: %w", name, net.HardwareAddr(n.MAC[:]), err)
		}
		// These replace what was there.
		address := n.Address.Addr().As4()
		for _, set := range []struct {
			request uint
			value   []byte
		}{{unix.SIOCSIFADDR, address[:]}, {unix.SIOCSIFNETMASK, net.CIDRMask(n.Address.Bits(), 32)}} {
			if err := req.SetInet4Addr(set.value); err != nil {
				return err
			}
			if err := unix.IoctlIfreq(socket, set.request, req); err != nil {
				return fmt.Errorf("network card %s: set %v: %w", name, n.Address, err)
			}
		}
		if err := link.setDefaultRoute(index, n.Gateway); err != nil {
			return fmt.Errorf("network card %s: default route by %v: %w", name, n.Gateway, err)
		}
		return nil
	})
}

// writeResolver names the name server. An image may have anything in the file's place, a link too.
func writeResolver(path string, server netip.Addr) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, fmt.Appendf(nil, "nameserver %s\n", server), 0o644)
}
