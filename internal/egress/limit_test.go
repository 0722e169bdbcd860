package egress

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

func rule(t *testing.T, text string) sandbox.EgressRule {
	t.Helper()
	r, err := sandbox.ParseEgressRule(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLimit(t *testing.T) {
	for _, c := range []struct {
		limit   string
		allowed string
		refused string
	}{
		{"", "* *.debian.org pypi.org:443 tcp://8.8.8.0/24 0.0.0.0/0 8.8.8.8",
			"10.0.0.0/8 10.1.2.3 172.16.5.0/24 192.168.1.1:80 100.64.0.0/10 100.100.100.200 169.254.169.254 169.254.0.0/16 168.63.129.16 198.18.0.1 192.0.2.7"},
		{"*.debian.org:443 pypi.org", "deb.debian.org:443 *.debian.org:443 *.ftp.debian.org:443 tcp://deb.debian.org:443 pypi.org pypi.org:80 udp://pypi.org",
			"* debian.org:443 deb.debian.org deb.debian.org:444 deb.debian.org:443-444 evildebian.org:443 *.pypi.org x.pypi.org 8.8.8.8 *.org"},
		{"tcp://*:80-90", "tcp://x.org:80 tcp://*.org:80-90 tcp://8.8.8.8:85", "x.org:80 udp://x.org:80 tcp://x.org tcp://x.org:79-80 tcp://10.0.0.1:80"},
		{"10.1.0.0/16 *", "10.1.2.3 10.1.0.0/16 10.1.9.0/24:5432 x.org 8.8.8.8", "10.0.0.0/8 10.2.0.1 0.0.0.0/8 169.254.169.254"},
		{"0.0.0.0/0", "8.8.8.8 0.0.0.0/0 8.0.0.0/7", "10.0.0.1 10.0.0.0/8 x.org *"},
		{"100.64.0.0/10", "100.64.0.0/10 100.100.0.0/16 100.100.100.201", "100.100.100.200 100.0.0.0/8"},
		{"192.0.2.7 *", "192.0.2.7:80", ""},
	} {
		l, err := NewLimit(strings.Fields(c.limit)...)
		if err != nil {
			t.Fatal(err)
		}
		l.local = func(a netip.Addr) bool { return a.String() == "192.0.2.7" }
		for _, text := range strings.Fields(c.allowed) {
			if err := l.Check(rule(t, text)); err != nil {
				t.Errorf("%q does not allow %s: %v", c.limit, text, err)
			}
		}
		for _, text := range strings.Fields(c.refused) {
			r, err := sandbox.ParseEgressRule(text)
			if err == nil && l.Check(r) == nil {
				t.Errorf("%q allows %s", c.limit, text)
			}
		}
	}
	for _, bad := range []string{"169.254.169.254", "169.254.0.0/24", "100.100.100.200:80", "168.63.129.16", "127.0.0.1", "nonsense!"} {
		if _, err := NewLimit(bad); err == nil {
			t.Errorf("an operator may allow %s", bad)
		}
	}
}

func TestLocal(t *testing.T) {
	// All of 127.0.0.0/8 is the host's, of which only one address is an interface's.
	for text, want := range map[string]bool{"127.0.0.1": true, "127.9.9.9": true, "203.0.113.77": false} {
		if got := IsLocal(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if kind, err := routeType(netip.MustParseAddr("127.9.9.9")); err != nil || kind != unix.RTN_LOCAL {
		t.Errorf("route to 127.9.9.9: type %d, %v", kind, err)
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if own, ok := netip.AddrFromSlice(a.(*net.IPNet).IP); ok && own.Unmap().Is4() && !IsLocal(own.Unmap()) {
			t.Errorf("%s is not the host's", own)
		}
	}
}
