// Package egress knows which networks are not public, and what those who ask for sandboxes may have them reach.
package egress

import "net/netip"

// Never returns the IPv4 networks that nobody but who owns this host may name: metadata of clouds, link-local and
// loopback addresses, and what is no single host.
func Never() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("168.63.129.16/32"),   // Azure's host: a public address with an instance's configuration
		netip.MustParsePrefix("100.100.100.200/32"), // Alibaba's metadata, in a private network
		netip.MustParsePrefix("192.0.0.192/32"),     // Oracle's
		netip.MustParsePrefix("169.254.0.0/16"),     // everybody else's
		netip.MustParsePrefix("0.0.0.0/8"),
		netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("224.0.0.0/4"),
		netip.MustParsePrefix("240.0.0.0/4"),
	}
}

// Special returns the IPv4 networks that are not public, those of Never first: only rules of their own reach
// them. The first that has an address is the one that counts.
func Special() []netip.Prefix {
	return append(Never(),
		netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("100.64.0.0/10"),
		netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.0.0.0/24"),
		netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("198.18.0.0/15"),
	)
}

// within tells whether all of p is in network.
func within(p, network netip.Prefix) bool {
	return p.Bits() >= network.Bits() && network.Contains(p.Addr())
}

// first returns the first of the networks that has all of p, or none.
func first(p netip.Prefix, networks []netip.Prefix) netip.Prefix {
	for _, n := range networks {
		if within(p, n) {
			return n
		}
	}
	return netip.Prefix{}
}

// IsPublic tells whether an address is in no special network, and IPv4.
func IsPublic(a netip.Addr) bool {
	return a.Is4() && !first(netip.PrefixFrom(a, 32), Special()).IsValid()
}
