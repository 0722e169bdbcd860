package usernet

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// outside is what the gateway reaches: every address is served by one server on the host's loopback.
type outside struct {
	mu     sync.Mutex
	dialed []string
	denied []Flow
}

func (o *outside) log(list *[]string, s string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	*list = append(*list, s)
}

// guestStack is a guest whose kernel is a second network stack.
type guestStack struct {
	*stack.Stack
	network *Network
}

func newGuest(t *testing.T, cfg Config) *guestStack {
	t.Helper()
	link := channel.New(512, 1514, "\x02\x00\x00\x00\x00\x01")
	cfg.Gateway, cfg.MAC, cfg.MTU = netip.MustParsePrefix("10.0.2.2/24"), [6]byte{2, 0, 0, 0, 0, 2}, 1500
	cfg.Deliver = func(frame []byte) {
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		link.InjectInbound(0, pkt)
		pkt.DecRef()
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	if err := s.CreateNIC(1, ethernet.New(link)); err != nil {
		t.Fatal(err)
	}
	if err := s.AddProtocolAddress(1, tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4([4]byte{10, 0, 2, 15}), PrefixLen: 24},
	}, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFrom4([4]byte{10, 0, 2, 2}), NIC: 1}})
	ctx, cancel := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	sending.Go(func() {
		for {
			pkt := link.ReadContext(ctx)
			if pkt == nil {
				return
			}
			view := pkt.ToView()
			pkt.DecRef()
			n.Send(view.AsSlice())
			view.Release()
		}
	})
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		sending.Wait()
		s.Destroy()
	})
	return &guestStack{s, n}
}

func full(to string) tcpip.FullAddress {
	a := netip.MustParseAddrPort(to)
	return tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(a.Addr().As4()), Port: a.Port()}
}

func (g *guestStack) tcp(t *testing.T, to string) (*gonet.TCPConn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.Stack, full(to), ipv4.ProtocolNumber)
}

func (g *guestStack) udp(t *testing.T, to string) *gonet.UDPConn {
	t.Helper()
	remote := full(to)
	c, err := gonet.DialUDP(g.Stack, nil, &remote, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// config has every dialed address lead to an echo server.
func (o *outside) config(t *testing.T, rules ...Rule) Config {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(struct{ io.Writer }{c}, c)
				_ = c.Close()
			}()
		}
	}()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(buf[:n], from)
		}
	}()
	return Config{
		Rules: rules,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			o.log(&o.dialed, network+" "+address)
			to := l.Addr().String()
			if network == UDP {
				to = u.LocalAddr().String()
			}
			return new(net.Dialer).DialContext(ctx, network, to)
		},
		Denied: func(f Flow) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.denied = append(o.denied, f)
		},
		Resolve: func(_ context.Context, name string) ([]netip.Addr, error) {
			if name == "gone.example.org." {
				return nil, &net.DNSError{Name: name, IsNotFound: true}
			}
			return []netip.Addr{addr("203.0.113.9"), addr("127.0.0.1")}, nil
		},
	}
}

func TestTCP(t *testing.T) {
	var o outside
	g := newGuest(t, o.config(t, Rule{Prefix: netip.MustParsePrefix("203.0.113.0/24"), FirstPort: 80, LastPort: 80, Protocol: TCP}))
	want := make([]byte, 1<<20)
	_, _ = rand.Read(want)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			c, err := g.tcp(t, "203.0.113.1:80")
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			go func() {
				_, _ = io.Copy(struct{ io.Writer }{c}, bytes.NewReader(want))
				_ = c.CloseWrite()
			}()
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	all.Wait()
	for _, to := range []string{"203.0.113.1:81", "8.8.8.8:80", "10.0.2.2:80", "192.168.1.1:80", "169.254.169.254:80"} {
		if c, err := g.tcp(t, to); err == nil {
			_ = c.Close()
			t.Errorf("connected to %s", to)
		} else if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: not refused at once", to)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if want := slices.Repeat([]string{"tcp 203.0.113.1:80"}, 4); !slices.Equal(o.dialed, want) {
		t.Errorf("dialed %v", o.dialed)
	}
	if len(o.denied) < 5 || o.denied[0] != (Flow{Protocol: TCP, To: netip.MustParseAddrPort("203.0.113.1:81"), Count: 1}) {
		t.Errorf("denied %v", o.denied)
	}
}

func TestUDP(t *testing.T) {
	var o outside
	g := newGuest(t, o.config(t, Rule{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Protocol: UDP}))
	c := g.udp(t, "203.0.113.1:123")
	buf := make([]byte, 100)
	for _, msg := range []string{"one", "two"} {
		if _, err := c.Write([]byte(msg)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != msg {
			t.Errorf("%q, %v", buf[:n], err)
		}
	}
	denied := g.udp(t, "8.8.8.8:53")
	if _, err := denied.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	// The adapter under denied does not wake a reader for an error, but gives it to the next.
	var timeout net.Error
	for deadline := time.Now().Add(10 * time.Second); ; {
		_ = denied.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := denied.Read(buf)
		isTimeout := errors.As(err, &timeout) && timeout.Timeout()
		if n == 0 && err != nil && !isTimeout {
			break
		}
		if n > 0 || time.Now().After(deadline) {
			t.Fatalf("%d bytes, %v: want an unreachable port", n, err)
		}
	}
}

// query asks the gateway for a name.
func query(t *testing.T, c net.Conn, name string, kind dnsmessage.Type) dnsmessage.Message {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 77, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Unpack(buf[:n]); err != nil || m.ID != 77 || !m.Response {
		t.Fatalf("reply %+v, %v", m.Header, err)
	}
	return m
}

// What a guest sends counts, also where nobody gets it.
func TestSent(t *testing.T) {
	var o outside
	g := newGuest(t, o.config(t))
	if _, err := g.udp(t, "8.8.8.8:53").Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	const headers = 14 + 20 + 8
	for deadline := time.Now().Add(10 * time.Second); g.network.Sent() < 1000+headers; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes counted", g.network.Sent())
		}
	}
	if n := g.network.Sent(); n > 2000 {
		t.Errorf("%d bytes counted", n)
	}
}

func TestNames(t *testing.T) {
	var o outside
	g := newGuest(t, o.config(t, Rule{Name: "*.example.org", FirstPort: 443, LastPort: 443, Protocol: TCP}))
	if c, err := g.tcp(t, "203.0.113.9:443"); err == nil {
		_ = c.Close()
		t.Error("connected before the name was resolved")
	}
	dns := g.udp(t, "10.0.2.2:53")
	m := query(t, dns, "www.example.org.", dnsmessage.TypeA)
	if len(m.Answers) != 1 {
		t.Fatalf("answers %v, want the one outside of the host", m.Answers)
	}
	if a, ok := m.Answers[0].Body.(*dnsmessage.AResource); !ok || a.A != [4]byte{203, 0, 113, 9} {
		t.Errorf("answer %v", m.Answers[0])
	}
	c, err := g.tcp(t, "203.0.113.9:443")
	if err != nil {
		t.Fatalf("after the name was resolved: %v", err)
	}
	_ = c.Close()
	if c, err := g.tcp(t, "203.0.113.9:80"); err == nil {
		_ = c.Close()
		t.Error("connected to a port that the rule does not allow")
	}
	for _, tc := range []struct {
		name string
		kind dnsmessage.Type
		want dnsmessage.RCode
	}{
		{"example.com.", dnsmessage.TypeA, dnsmessage.RCodeNameError},
		{"gone.example.org.", dnsmessage.TypeA, dnsmessage.RCodeNameError},
		{"www.example.org.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess},
	} {
		if m := query(t, dns, tc.name, tc.kind); m.RCode != tc.want || len(m.Answers) != 0 {
			t.Errorf("%s: %v, %v", tc.name, m.RCode, m.Answers)
		}
	}
}

// Closing ends flows in progress, those being opened, and leaves nothing behind.
func TestClose(t *testing.T) {
	var o outside
	cfg := o.config(t, Rule{Prefix: netip.MustParsePrefix("203.0.113.0/24")})
	inner, hanging := cfg.Dial, make(chan struct{})
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == "203.0.113.66:1" {
			close(hanging)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return inner(ctx, network, address)
	}
	g := newGuest(t, cfg)
	c, err := g.tcp(t, "203.0.113.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { _, _ = g.tcp(t, "203.0.113.66:1") }()
	<-hanging
	done := make(chan error)
	go func() { done <- g.network.Close() }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Close hangs")
	}
	if len(g.network.open) != 0 {
		t.Errorf("%d connections left", len(g.network.open))
	}
	g.network.Send(make([]byte, 60))
}

func FuzzFrames(f *testing.F) {
	n, err := New(Config{
		Gateway: netip.MustParsePrefix("10.0.2.2/24"), MAC: [6]byte{2}, MTU: 1500, Deliver: func([]byte) {},
		Rules: []Rule{{Name: "example.org"}, {Prefix: netip.MustParsePrefix("8.8.8.0/24")}},
		Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.ErrUnsupported
		},
		Resolve: func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{addr("8.8.8.8")}, nil },
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = n.Close() })
	eth := append(bytes.Repeat([]byte{2}, 12), 8, 0)
	f.Add(eth)
	f.Add(append(slices.Clone(eth), 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 2, 15, 8, 8, 8, 8, 0, 1, 0, 53, 0, 8, 0, 0))
	f.Add(append(slices.Clone(eth), 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 2, 15, 8, 8, 8, 8, 8, 0, 0, 0, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, frame []byte) {
		n.Send(frame)
		n.answer(frame)
	})
}
