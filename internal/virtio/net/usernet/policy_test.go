package usernet

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestPolicy(t *testing.T) {
	rules := []Rule{
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), FirstPort: 443, LastPort: 443, Protocol: TCP},
		{Prefix: netip.MustParsePrefix("93.184.216.0/24")},
		{Prefix: netip.MustParsePrefix("10.1.0.0/16"), FirstPort: 5000, LastPort: 5010, Protocol: UDP},
		{Name: "Example.org.", FirstPort: 80, LastPort: 80},
		{Name: "*.example.net"},
	}
	p, err := newPolicy(rules)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	p.now = func() time.Time { return now }
	if got := p.resolved("example.ORG", []netip.Addr{addr("203.0.113.5"), addr("127.0.0.1"), addr("169.254.169.254"), addr("::1")}); len(got) != 1 {
		t.Errorf("usable addresses %v", got)
	}
	p.resolved("www.example.net", []netip.Addr{addr("203.0.113.6")})
	for _, tc := range []struct {
		protocol, to string
		want         bool
	}{
		{TCP, "8.8.8.8:443", true},
		{UDP, "8.8.8.8:443", false},
		{TCP, "8.8.8.8:80", false},
		{TCP, "93.184.216.34:1", true},
		{UDP, "93.184.216.34:65535", true},
		{TCP, "127.0.0.1:443", false},
		{TCP, "169.254.169.254:443", false},
		{TCP, "168.63.129.16:443", false},
		{TCP, "10.0.0.1:443", false},
		{TCP, "0.0.0.0:443", false},
		{TCP, "224.0.0.1:443", false},
		{UDP, "10.1.2.3:5000", true},
		{UDP, "10.1.2.3:5010", true},
		{UDP, "10.1.2.3:5011", false},
		{TCP, "10.1.2.3:5000", false},
		{TCP, "203.0.113.5:80", true},
		{TCP, "203.0.113.5:81", false},
		{TCP, "203.0.113.6:22", true},
		{TCP, "203.0.113.7:80", false},
	} {
		if got := p.allows(tc.protocol, netip.MustParseAddrPort(tc.to)); got != tc.want {
			t.Errorf("%s %s: %t", tc.protocol, tc.to, got)
		}
	}
	for name, want := range map[string]bool{
		"example.org": true, "EXAMPLE.ORG.": true, "www.example.org": false, "example.net": false,
		"a.b.example.net": true, "badexample.net": false, "": false, ".example.net": false,
	} {
		if got := p.allowsName(name); got != want {
			t.Errorf("name %q: %t", name, got)
		}
	}
	now = now.Add(nameLifetime + time.Second)
	if p.allows(TCP, netip.MustParseAddrPort("203.0.113.5:80")) {
		t.Error("a name's address is allowed for ever")
	}
	p.resolved("example.org", nil)
	if len(p.names) != 0 {
		t.Errorf("%d addresses remembered", len(p.names))
	}
}

func TestEmptyPolicyAllowsNothing(t *testing.T) {
	p, err := newPolicy(nil)
	if err != nil {
		t.Fatal(err)
	}
	if p.allows(TCP, netip.MustParseAddrPort("8.8.8.8:53")) || p.allowsName("example.org") {
		t.Error("allowed")
	}
}

func TestRememberedNamesAreBounded(t *testing.T) {
	p, err := newPolicy([]Rule{{Name: "*.example.org"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxNames {
		p.resolved("a.example.org", []netip.Addr{netip.AddrFrom4([4]byte{8, byte(i >> 16), byte(i >> 8), byte(i)})})
	}
	if len(p.names) != maxNames {
		t.Errorf("%d addresses", len(p.names))
	}
}

func TestInvalidRules(t *testing.T) {
	some := netip.MustParsePrefix("1.0.0.0/8")
	for _, r := range []Rule{
		{},
		{Prefix: some, Name: "example.org"},
		{Prefix: netip.MustParsePrefix("::/0")},
		{Name: "**"},
		{Name: "a b.org"},
		{Name: "10.0.0.1"},
		{Name: "a.*.org"},
		{Prefix: some, FirstPort: 2, LastPort: 1},
		{Prefix: some, Protocol: "icmp"},
	} {
		if _, err := newPolicy([]Rule{r}); !errors.Is(err, ErrRule) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}
