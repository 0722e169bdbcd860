package egress

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// IsLocal tells whether an IPv4 address is one of this host's own, or of all its neighbours at once. What
// listens there may trust that who connects is on this host, and no firewall is in between. An address is
// taken for the host's if the host's cannot be listed.
func IsLocal(addr netip.Addr) bool {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, a := range list {
		if own, ok := a.(*net.IPNet); ok && own.IP.Equal(addr.AsSlice()) {
			return true
		}
	}
	// A host can also be given whole networks as its own; only its routes tell. A host that does not let
	// itself be asked has no more than the above.
	kind, err := routeType(addr)
	return err == nil && kind != unix.RTN_UNICAST
}

// routeType asks the kernel for the type of the route to an IPv4 address: RTN_UNICAST, RTN_LOCAL and others.
func routeType(addr netip.Addr) (uint8, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	const attribute = unix.SizeofRtAttr + 4
	// struct nlmsghdr: length, type, flags, sequence number, port.
	msg := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr+unix.SizeofRtMsg+attribute)
	msg = binary.NativeEndian.AppendUint16(msg, unix.RTM_GETROUTE)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST)
	msg = append(msg, make([]byte, 8)...)
	// struct rtmsg: family, length of the destination, and zeros.
	msg = append(msg, unix.AF_INET, 32)
	msg = append(msg, make([]byte, unix.SizeofRtMsg-2)...)
	// struct rtattr.
	msg = binary.NativeEndian.AppendUint16(msg, attribute)
	msg = binary.NativeEndian.AppendUint16(msg, unix.RTA_DST)
	msg = append(msg, addr.AsSlice()...)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	switch {
	case err != nil:
		return 0, err
	case n >= unix.SizeofNlMsghdr+4 && binary.NativeEndian.Uint16(answer[4:]) == unix.NLMSG_ERROR:
		return 0, unix.Errno(-int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])))
	case n < unix.SizeofNlMsghdr+unix.SizeofRtMsg || binary.NativeEndian.Uint16(answer[4:]) != unix.RTM_NEWROUTE:
		return 0, errors.New("the kernel's answer is no route")
	}
	return answer[unix.SizeofNlMsghdr+7], nil // rtm_type
}
