package usernet

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// lookups is a resolver that remembers what it was asked.
type lookups struct {
	mu     sync.Mutex
	asked  []string
	answer []netip.Addr
}

func (l *lookups) resolve(_ context.Context, name string) ([]netip.Addr, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, name)
	return l.answer, nil
}

func (l *lookups) set(addrs ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = nil
	for _, a := range addrs {
		l.answer = append(l.answer, addr(a))
	}
}

// Nothing of a question leaves the host unless it asks for an address of an allowed name, so that names
// and records cannot carry anything else.
func TestTunnelsOverDNS(t *testing.T) {
	var o outside
	var l lookups
	l.set("203.0.113.9")
	cfg := o.config(t, Rule{Name: "example.org"}, Rule{Name: "*.cdn.example"})
	cfg.Resolve = l.resolve
	g := newGuest(t, cfg)
	dns := g.udp(t, "10.0.2.2:53")
	long := strings.Repeat(strings.Repeat("x", 63)+".", 3)
	for _, name := range []string{
		long + "tunnel.example.", "secret.example.org.", "example.org.evil.example.", "evil-example.org.", "cdn.example.",
		"a b.cdn.example.", "\x00.cdn.example.", "2130706433.", "1.",
	} {
		for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeTXT} {
			if m := query(t, dns, name, kind); m.RCode != dnsmessage.RCodeNameError || len(m.Answers) != 0 {
				t.Errorf("%q: %v, %v", name, m.RCode, m.Answers)
			}
		}
	}
	for _, kind := range []dnsmessage.Type{
		dnsmessage.TypeTXT, dnsmessage.TypeAAAA, dnsmessage.TypeMX, dnsmessage.TypeCNAME, dnsmessage.TypeNS, dnsmessage.TypeSRV, 10 /* NULL */, 65 /* HTTPS */, dnsmessage.TypeALL, 252, /* AXFR */
	} {
		if m := query(t, dns, "example.org.", kind); m.RCode != dnsmessage.RCodeSuccess || len(m.Answers) != 0 {
			t.Errorf("%v: %v, %v", kind, m.RCode, m.Answers)
		}
	}
	if len(l.asked) != 0 {
		t.Errorf("the host's resolver was asked for %q", l.asked)
	}
	if m := query(t, dns, "Example.ORG.", dnsmessage.TypeA); len(m.Answers) != 1 {
		t.Errorf("the allowed name: %v, %v", m.RCode, m.Answers)
	}
	if len(l.asked) != 1 || l.asked[0] != "example.org." {
		t.Errorf("the host's resolver was asked for %q", l.asked)
	}
	// An answer of any size is cut to what fits into a datagram of plain DNS.
	many := make([]string, 1000)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}).String()
	}
	l.set(many...)
	m := query(t, dns, "a.cdn.example.", dnsmessage.TypeA)
	if b, err := m.Pack(); err != nil || len(b) > 512 || len(m.Answers) == 0 {
		t.Errorf("an answer of %d bytes, %v", len(b), err)
	}
	// Other name servers are destinations like any other.
	for _, server := range []string{"8.8.8.8:53", "10.0.2.2:53", "10.0.2.3:53"} {
		if c, err := g.tcp(t, server); err == nil {
			_ = c.Close()
			t.Errorf("a name server over TCP at %s", server)
		}
	}
	if other := g.udp(t, "8.8.8.8:53"); other != nil {
		_, _ = other.Write([]byte("question"))
	}
	time.Sleep(50 * time.Millisecond)
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.dialed) != 0 {
		t.Errorf("dialed %q", o.dialed)
	}
}

// A name that is allowed, whoever is in charge of it, opens no way to an address that is not public.
func TestRebinding(t *testing.T) {
	var o outside
	var l lookups
	cfg := o.config(t, Rule{Name: "rebind.example", FirstPort: 80, LastPort: 80}, Rule{Prefix: netip.MustParsePrefix("10.9.0.0/16"), FirstPort: 443, LastPort: 443})
	cfg.Resolve = l.resolve
	g := newGuest(t, cfg)
	var own atomic.Value
	own.Store("198.51.100.1")
	g.network.policy.local = func(a netip.Addr) bool { return a.String() == own.Load() }
	dns := g.udp(t, "10.0.2.2:53")
	answers := func() (list []string) {
		for _, a := range query(t, dns, "rebind.example.", dnsmessage.TypeA).Answers {
			list = append(list, netip.AddrFrom4(a.Body.(*dnsmessage.AResource).A).String())
		}
		return list
	}
	l.set("203.0.113.5")
	if got := answers(); len(got) != 1 {
		t.Fatalf("answers %q", got)
	}
	bad := []string{"127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.2.2", "10.0.0.1", "172.17.0.1", "192.168.1.1",
		"169.254.169.254", "100.100.100.200", "198.18.0.1", "224.0.0.1", "255.255.255.255", "198.51.100.1", "::1", "::ffff:127.0.0.1", "fd00::1"}
	for _, a := range bad {
		l.set(a)
		if got := answers(); len(got) != 0 {
			t.Errorf("the name is answered with %q", got)
		}
		// The guest's own stack keeps the rest.
		if ip := addr(a); ip.Is4() && ip.IsGlobalUnicast() || a == "169.254.169.254" {
			if c, err := g.tcp(t, a+":80"); err == nil {
				_ = c.Close()
				t.Errorf("connected to %s", a)
			}
		}
	}
	// An address that became the host's own since it was looked up.
	own.Store("203.0.113.5")
	if c, err := g.tcp(t, "203.0.113.5:80"); err == nil {
		_ = c.Close()
		t.Error("connected to the host's own address")
	}
	// A private address that a rule names is answered; the port is the rule's about the address.
	l.set("10.9.1.1", "10.8.1.1")
	if got := answers(); len(got) != 1 || got[0] != "10.9.1.1" {
		t.Errorf("answers %q", got)
	}
	if c, err := g.tcp(t, "10.9.1.1:80"); err == nil {
		_ = c.Close()
		t.Error("connected to a private address on the name's port")
	}
	if c, err := g.tcp(t, "10.9.1.1:443"); err != nil {
		t.Error(err)
	} else {
		_ = c.Close()
	}
}

// Even where all is allowed, only what is public is, and of this host nothing.
func TestEverythingPublic(t *testing.T) {
	p, err := newPolicy([]Rule{{Name: "*"}, {Prefix: netip.MustParsePrefix("0.0.0.0/0")}, {Prefix: netip.MustParsePrefix("198.51.100.2/32"), FirstPort: 80, LastPort: 80}})
	if err != nil {
		t.Fatal(err)
	}
	p.local = func(a netip.Addr) bool { return netip.MustParsePrefix("198.51.100.0/30").Contains(a) }
	for to, want := range map[string]bool{
		"8.8.8.8:53": true, "198.51.100.7:1": true, "198.51.100.1:80": false, "198.51.100.2:80": true, "198.51.100.2:81": false,
		"127.0.0.1:80": false, "169.254.169.254:80": false, "10.0.0.1:80": false, "192.168.0.1:80": false, "[::1]:80": false,
		"[::ffff:127.0.0.1]:80": false, "[::ffff:8.8.8.8]:80": false, "[2001:db8::1]:80": false,
	} {
		if got := p.allows(TCP, netip.MustParseAddrPort(to)); got != want {
			t.Errorf("%s: %t", to, got)
		}
	}
	if !p.allowsName("any.example.") || p.allowsName("") || p.allowsName("1.2.3.4") {
		t.Error("names")
	}
	if got := p.resolved("any.example", []netip.Addr{addr("8.8.8.8"), addr("10.0.0.1"), addr("198.51.100.1")}); len(got) != 1 {
		t.Errorf("usable %v", got)
	}
}

// The addresses of this host are reached by a rule for nothing else only.
func TestOwnAddresses(t *testing.T) {
	var own netip.Addr
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.(*net.IPNet).IP); ok && ip.Unmap().Is4() {
			own = ip.Unmap()
		}
	}
	if !own.IsValid() {
		t.Skip("this host has no IPv4 address")
	}
	guard := func(network netip.Prefix) *Guard {
		g, err := NewGuard([]Rule{{Prefix: network}}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	to := netip.AddrPortFrom(own, 80)
	if around, err := own.Prefix(30); err != nil || guard(around).policy.allows(TCP, to) {
		t.Errorf("a rule for the network reaches the host's own address, %v", err)
	}
	if !guard(netip.PrefixFrom(own, 32)).policy.allows(TCP, to) {
		t.Error("a rule for the host's own address does not reach it")
	}
}

// What is neither TCP nor UDP over IPv4 goes nowhere, and brings nothing back.
func TestOtherProtocols(t *testing.T) {
	var o outside
	cfg := o.config(t, Rule{Name: "*"}, Rule{Prefix: netip.MustParsePrefix("0.0.0.0/0")})
	var mu sync.Mutex
	var got [][]byte
	cfg.Gateway, cfg.MAC, cfg.MTU = netip.MustParsePrefix("10.0.2.2/24"), [6]byte{2, 0, 0, 0, 0, 2}, 1500
	cfg.Deliver = func(frame []byte) {
		mu.Lock()
		defer mu.Unlock()
		if header.Ethernet(frame).Type() != header.ARPProtocolNumber {
			got = append(got, append([]byte(nil), frame...))
		}
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	eth := append([]byte{2, 0, 0, 0, 0, 2}, 2, 0, 0, 0, 0, 1)
	v4 := func(protocol byte, payload ...byte) []byte {
		ip := header.IPv4(make([]byte, 20+len(payload)))
		ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(ip)), TTL: 64, Protocol: protocol})
		copy(ip[12:], []byte{10, 0, 2, 15, 8, 8, 8, 8})
		ip.SetChecksum(^ip.CalculateChecksum())
		copy(ip[20:], payload)
		return append(append(append([]byte(nil), eth...), 8, 0), ip...)
	}
	v6 := func(next byte, payload ...byte) []byte {
		ip := make([]byte, 40, 40+len(payload))
		ip[0], ip[5], ip[6], ip[7] = 0x60, byte(len(payload)), next, 64
		copy(ip[8:], addr("2001:db8::15").AsSlice())
		copy(ip[24:], addr("2001:4860:4860::8888").AsSlice())
		return append(append(append([]byte(nil), eth...), 0x86, 0xdd), append(ip, payload...)...)
	}
	for _, frame := range [][]byte{
		v4(1, 8, 0, 0xf7, 0xff, 0, 0, 0, 0),             // ICMP echo
		v4(2, 0x16, 0, 0, 0, 0, 0, 0, 0),                // IGMP
		v4(41, v6(17, 0, 1, 0, 53, 0, 8, 0, 0)[14:]...), // IPv6 in IPv4
		v4(47, 0, 0, 8, 0),                              // GRE
		v4(132, 0, 1, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0),    // SCTP
		v6(17, 0, 1, 0, 53, 0, 8, 0, 0),                 // UDP
		v6(6, append([]byte{0, 1, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 1, 0}, 0, 0, 0, 0)...), // a TCP SYN
		v6(58, 128, 0, 0, 0, 0, 1, 0, 1),                         // ICMPv6 echo
		append(append([]byte(nil), eth...), 0x88, 0xb5, 1, 2, 3), // a protocol of its own
	} {
		n.Send(frame)
	}
	time.Sleep(100 * time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	for _, frame := range got {
		// An ICMP error of the gateway is an answer of the gateway's own.
		if ip := header.IPv4(frame[14:]); ip.TransportProtocol() != header.ICMPv4ProtocolNumber || header.ICMPv4(ip.Payload()).Type() != header.ICMPv4DstUnreachable {
			t.Errorf("answered with % x", frame)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.dialed) != 0 {
		t.Errorf("dialed %q", o.dialed)
	}
}
