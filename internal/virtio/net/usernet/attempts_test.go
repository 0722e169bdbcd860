package usernet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// browser is a program of the guest that follows wherever it is led: it looks names up with the gateway.
func (g *guestStack) browser(t *testing.T) *http.Client {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, _, to string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(to)
		if err != nil {
			return nil, err
		}
		a, err := netip.ParseAddr(host)
		if err != nil {
			m := query(t, g.udp(t, "10.0.2.2:53"), host+".", dnsmessage.TypeA)
			if len(m.Answers) == 0 {
				return nil, fmt.Errorf("%s: %s", host, m.RCode)
			}
			a = netip.AddrFrom4(m.Answers[0].Body.(*dnsmessage.AResource).A)
		}
		if !a.Is4() {
			return nil, errors.New("there is no IPv6")
		}
		return g.tcp(t, net.JoinHostPort(a.String(), port))
	}}
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

// TestLedAstray has an allowed host send the guest elsewhere.
func TestLedAstray(t *testing.T) {
	var o outside
	cfg := o.config(t, Rule{Name: "good.example.org", FirstPort: 80, LastPort: 80})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, "here")
	}), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		o.log(&o.dialed, network+" "+address)
		return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
	}
	// Whatever a name is, it leads to the host first, and to where it is not.
	cfg.Resolve = func(_ context.Context, name string) ([]netip.Addr, error) {
		o.log(&o.dialed, "name "+name)
		return []netip.Addr{addr("203.0.113.9"), addr("10.0.0.1"), addr("169.254.169.254")}, nil
	}
	g := newGuest(t, cfg)
	b := g.browser(t)
	for _, to := range []string{
		"http://evil.example/", "http://good.example.org.evil.example/", "http://x.good.example.org/", "http://good.example.org:8080/", "http://198.51.100.7/",
		"http://169.254.169.254/latest/meta-data/", "http://10.0.2.2/", "http://10.0.0.1/", "http://[::1]/", "http://[2001:db8::1]/", "http://0x7f000001/",
	} {
		res, err := b.Get("http://good.example.org/?to=" + to)
		if err == nil {
			_ = res.Body.Close()
			t.Errorf("it was led to %s: %s", to, res.Status)
		}
	}
	if res, err := b.Get("http://good.example.org/?to=http://good.example.org/"); err != nil || res.StatusCode != 200 {
		t.Errorf("%v, %v", res, err)
	} else {
		_ = res.Body.Close()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range o.dialed {
		if d != "tcp 203.0.113.9:80" && d != "name good.example.org." {
			t.Errorf("%s", d)
		}
	}
	for _, name := range []string{"evil.example", "good.example.org.evil.example", "x.good.example.org"} {
		if !slices.ContainsFunc(o.denied, func(f Flow) bool { return f.Name == name }) {
			t.Errorf("%s is not in the record", name)
		}
	}
}

// TestProxies asks the gateway, and an allowed host, to pass something on. No port of the gateway is open but that of
// names, over UDP.
func TestProxies(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("ALL_PROXY", "socks5://127.0.0.1:1")
	var o outside
	g := newGuest(t, o.config(t, Rule{Name: "*"}, Rule{Prefix: netip.MustParsePrefix("203.0.113.0/24")}))
	for _, port := range []int{53, 80, 443, 853, 1080, 3128, 8080, 8888} {
		if c, err := g.tcp(t, fmt.Sprintf("10.0.2.2:%d", port)); err == nil {
			_ = c.Close()
			t.Errorf("the gateway listens on port %d", port)
		}
	}
	// The host's own proxies are not the guest's.
	c, err := g.tcp(t, "203.0.113.1:443")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	const text = "CONNECT 198.51.100.7:22 HTTP/1.1\r\n\r\n"
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(c, back); err != nil || string(back) != text {
		t.Errorf("%q, %v", back, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !slices.Equal(o.dialed, []string{"tcp 203.0.113.1:443"}) {
		t.Errorf("dialed %q", o.dialed)
	}
}

// TestSaidNamesCountForNothing has the guest say an allowed name, by TLS and by HTTP, to an address that is not that
// host's: it is the address that counts.
func TestSaidNamesCountForNothing(t *testing.T) {
	var o outside
	g := newGuest(t, o.config(t, Rule{Name: "good.example.org"}))
	query(t, g.udp(t, "10.0.2.2:53"), "good.example.org.", dnsmessage.TypeA)
	for _, to := range []string{"198.51.100.7:443", "198.51.100.7:80", "203.0.113.10:443"} {
		c, err := g.tcp(t, to)
		if err != nil {
			continue
		}
		t.Errorf("connected to %s", to)
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_ = tls.Client(c, &tls.Config{ServerName: "good.example.org"}).Handshake()
		_ = c.Close()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.dialed) != 0 {
		t.Errorf("dialed %s", strings.Join(o.dialed, ", "))
	}
}
