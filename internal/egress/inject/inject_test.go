package inject

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/egress"
)

const secret = "s3cr3t-of-the-host"

// world is hosts at made-up addresses, and the sandbox's view of them.
type world struct {
	*Injector
	ca     *authority // of the world: certifies the hosts
	mu     sync.Mutex
	hosts  map[string]string // address to the listener's
	names  map[string][]netip.Addr
	dialed []string
	events []Event
}

// newWorld makes an injector with rules over a network of its own.
func newWorld(t *testing.T, rules ...Rule) *world {
	t.Helper()
	goroutines := runtime.NumGoroutine()
	w := &world{hosts: map[string]string{}, names: map[string][]netip.Addr{}}
	var err error
	if w.ca, err = newAuthority([]string{"example.org", "evil.example"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(w.ca.cert)
	if w.Injector, err = New(Config{
		Rules: rules, Roots: roots, Dial: w.dial,
		Secrets: func(_ context.Context, name string) (string, error) {
			if name != "token" {
				return "", fmt.Errorf("no %s, but %s", name, secret)
			}
			return secret, nil
		},
		Resolve: func(_ context.Context, name string) ([]netip.Addr, error) { return w.names[name], nil },
		Report: func(e Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		},
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if strings.Contains(fmt.Sprint(w.events), secret) {
			t.Errorf("the secret is in %v", w.events)
		}
		left := func() int { w.Injector.mu.Lock(); defer w.Injector.mu.Unlock(); return len(w.open) }
		for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > goroutines+2 || left() > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				t.Fatalf("%d connections are open, or goroutines are left:\n%s", left(), buf[:runtime.Stack(buf, true)])
			}
		}
	})
	return w
}

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dialed = append(w.dialed, address)
	to := w.hosts[address]
	w.mu.Unlock()
	if to == "" {
		return nil, errors.New("connection refused")
	}
	return (&net.Dialer{}).DialContext(ctx, network, to)
}

// seen is what a host got.
type seen struct {
	mu       sync.Mutex
	requests []*http.Request
}

func (s *seen) last() *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) == 0 {
		return nil
	}
	return s.requests[len(s.requests)-1]
}

// host serves at an address, with a certificate for the names if there are any.
func (w *world) host(t *testing.T, address string, handler http.HandlerFunc, names ...string) *seen {
	t.Helper()
	got := &seen{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		got.mu.Lock()
		got.requests = append(got.requests, r)
		got.mu.Unlock()
		if handler != nil {
			handler(rw, r)
		}
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if len(names) > 0 {
		leaf, err := w.ca.leaf(names[0], time.Now())
		if err != nil {
			t.Fatal(err)
		}
		server.TLS = &tls.Config{Certificates: []tls.Certificate{*leaf}}
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[address] = server.Listener.Addr().String()
	return got
}

// client is a program of the sandbox, for which every name leads to an address. It trusts the sandbox's authority and
// the world's.
func client(t *testing.T, i *Injector, address func(host string) string, more ...[]byte) *http.Client {
	roots := x509.NewCertPool()
	for _, p := range append(more, i.Authority()) {
		roots.AppendCertsFromPEM(p)
	}
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
			return i.Dial(ctx, network, address(to))
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func at(address string) func(string) string { return func(string) string { return address } }

// reply is what is of interest of an answer.
type reply struct {
	code  int
	proto string
	host  string // that has answered
	by    string // whose certificate that was
}

func get(t *testing.T, c *http.Client, url string) (reply, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	r := reply{res.StatusCode, res.Proto, res.Request.URL.Host, ""}
	if res.TLS != nil {
		r.by = res.TLS.PeerCertificates[0].Issuer.String()
	}
	return r, string(body)
}

var apiRule = Rule{Host: "api.example.org", Header: "Authorization", Prefix: "Bearer ", Secret: "token"}

func TestInjects(t *testing.T) {
	w := newWorld(t, apiRule, Rule{Host: "api.example.org", Header: "X-Key", Secret: "token"})
	got := w.host(t, "203.0.113.1:443", func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		rw.Header().Set("X-Echo", "it was "+r.Header.Get("Authorization"))
		rw.Header().Set("Trailer", "X-Last")
		fmt.Fprintf(rw, "got %s with %s", body, r.Header.Get("Authorization"))
		rw.(http.Flusher).Flush()
		_, _ = io.WriteString(rw, " "+secret[:5])
		rw.(http.Flusher).Flush()
		_, _ = io.WriteString(rw, secret[5:]+" and s3cr")
		rw.Header().Set("X-Last", secret)
	}, "api.example.org")
	c := client(t, w.Injector, at("203.0.113.1:443"))
	for range 3 { // on one connection, mostly
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://api.example.org/v1?q=1", strings.NewReader("question"))
		req.Header.Set("Authorization", "Bearer of the guest")
		req.Header.Set("Connection", "Authorization, X-Key")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		stars := strings.Repeat("*", len(secret))
		if want := "got question with Bearer " + stars + " " + stars + " and s3cr"; err != nil || string(body) != want {
			t.Errorf("the guest got %q, %v; want %q", body, err, want)
		}
		if h := fmt.Sprint(res.Header, res.Trailer); strings.Contains(h, secret) || res.Header.Get("X-Echo") != "it was Bearer "+stars || res.Trailer.Get("X-Last") != stars {
			t.Errorf("header %s", h)
		}
		r := got.last()
		if r == nil || r.Header.Get("Authorization") != "Bearer "+secret || r.Header.Get("X-Key") != secret || r.Host != "api.example.org" ||
			r.URL.String() != "/v1?q=1" || r.Header.Get("Accept-Encoding") != "identity" || r.Header.Get("X-Forwarded-For") != "" {
			t.Fatalf("the host got %+v", r)
		}
	}
	if want := (Event{Host: "api.example.org", Secrets: []string{"token"}, Method: "POST", Status: 200}); len(w.events) != 3 || !reflect.DeepEqual(w.events[0], want) {
		t.Errorf("%+v", w.events)
	}
}

// TestOthersPassThrough has flows to other names be what they are: the guest sees the host's own certificate.
func TestOthersPassThrough(t *testing.T) {
	w := newWorld(t, apiRule)
	got := w.host(t, "203.0.113.2:443", nil, "www.example.org")
	c := client(t, w.Injector, at("203.0.113.2:443"), w.ca.pem)
	res, _ := get(t, c, "https://www.example.org/")
	if res.by != w.ca.cert.Subject.String() || res.by == w.authority.cert.Subject.String() || got.last().Header.Get("Authorization") != "" {
		t.Errorf("%+v, %v", res, got.last().Header)
	}
	// What is no TLS passes too, and who speaks first does not matter.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.hosts["203.0.113.3:443"] = l.Addr().String()
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	conn, err := w.Dial(t.Context(), "tcp", "203.0.113.3:443")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "SSH-2.0-x\r\n")
	_ = conn.(*net.UnixConn).CloseWrite()
	if back, err := io.ReadAll(conn); err != nil || string(back) != "SSH-2.0-x\r\n" {
		t.Errorf("%q, %v", back, err)
	}
	if _, err := w.Dial(t.Context(), "tcp", "203.0.113.99:443"); err == nil {
		t.Error("nobody is there")
	}
	if conn, err := w.Dial(t.Context(), "tcp", "203.0.113.2:80"); err == nil {
		t.Errorf("nobody is there: %v", conn)
	}
	if len(w.events) != 0 {
		t.Errorf("%+v", w.events)
	}
}

// TestWaysToTheSecret tries to get it: none of the hosts but the right one may see it, nor the guest.
func TestWaysToTheSecret(t *testing.T) {
	w := newWorld(t, apiRule)
	answer := func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(rw, r, "https://evil.example/", http.StatusTemporaryRedirect)
		}
	}
	api := w.host(t, "203.0.113.1:443", answer, "api.example.org")
	evil := w.host(t, "203.0.113.66:443", nil, "evil.example")
	hosts := func(to string) string {
		if strings.HasPrefix(to, "api.") {
			return "203.0.113.1:443"
		}
		return "203.0.113.66:443"
	}
	c := client(t, w.Injector, hosts, w.ca.pem)

	t.Run("redirect", func(t *testing.T) {
		if res, _ := get(t, c, "https://api.example.org/away"); res.host != "evil.example" {
			t.Errorf("%+v", res)
		}
		if r := evil.last(); r == nil || strings.Contains(fmt.Sprint(r.Header), secret) {
			t.Errorf("%+v", r)
		}
	})
	t.Run("rebinding", func(t *testing.T) { // the name leads to somebody else's host, who has no certificate for it
		n := len(evil.requests)
		res, body := get(t, client(t, w.Injector, at("203.0.113.66:443")), "https://api.example.org/")
		if res.code != http.StatusBadGateway || len(evil.requests) != n || strings.Contains(body, "evil") {
			t.Errorf("%+v: %q", res, body)
		}
	})
	t.Run("host is another", func(t *testing.T) {
		n := len(api.requests)
		for _, host := range []string{"evil.example", "api.example.org:444", "api.example.org.evil.example", "", "x@api.example.org"} {
			if status := raw(t, w.Injector, "203.0.113.1:443", "api.example.org", "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); status != 421 && status != 400 {
				t.Errorf("%q: %d", host, status)
			}
		}
		if len(api.requests) != n {
			t.Error("it was sent on")
		}
		for _, host := range []string{"API.example.org.", "api.example.org:443"} {
			if status := raw(t, w.Injector, "203.0.113.1:443", "api.example.org", "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); status != 200 {
				t.Errorf("%q: %d", host, status)
			}
		}
	})
	t.Run("name is another", func(t *testing.T) { // SNI of one, Host of the other, at the one's address
		n := len(w.events)
		for _, sni := range []string{"evil.example", ""} {
			conn, err := w.Dial(t.Context(), "tcp", "203.0.113.66:443")
			if err != nil {
				t.Fatal(err)
			}
			secure := tls.Client(conn, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
			_, _ = io.WriteString(secure, "GET / HTTP/1.1\r\nHost: api.example.org\r\n\r\n")
			if res, err := http.ReadResponse(bufio.NewReader(secure), nil); err != nil {
				t.Error(err)
			} else if _ = res.Body.Close(); res.StatusCode != 200 {
				t.Error(res.Status)
			}
			_ = secure.Close()
		}
		if r := evil.last(); r.Host != "api.example.org" || r.Header.Get("Authorization") != "" || len(w.events) != n {
			t.Errorf("%+v", r)
		}
	})
	t.Run("proxy", func(t *testing.T) {
		for _, text := range []string{
			"GET https://evil.example/ HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
			"GET https://api.example.org/ HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
			"CONNECT evil.example:443 HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
			"CONNECT api.example.org:443 HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
			"TRACE / HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: api.example.org\r\nHost: evil.example\r\n\r\n",
			"GET //evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
		} {
			n := len(api.requests)
			if status := raw(t, w.Injector, "203.0.113.1:443", "api.example.org", text); status < 400 || status == 502 || len(api.requests) != n {
				t.Errorf("%q: %d", text, status)
			}
		}
	})
	t.Run("smuggling", func(t *testing.T) { // two lengths, of which either may be believed
		n := len(api.requests)
		text := "POST / HTTP/1.1\r\nHost: api.example.org\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: evil.example\r\n\r\n"
		_ = raw(t, w.Injector, "203.0.113.1:443", "api.example.org", text)
		for _, r := range api.requests[n:] {
			if r.Host != "api.example.org" {
				t.Errorf("%+v", r)
			}
		}
	})
	t.Run("h2", func(t *testing.T) {
		if res, _ := get(t, c, "https://api.example.org/"); res.proto != "HTTP/1.1" {
			t.Errorf("%s", res.proto)
		}
	})
}

// raw sends text over TLS with a name, and returns the status of the answer; 0 if there is none.
func raw(t *testing.T, i *Injector, address, sni, text string) int {
	t.Helper()
	conn, err := i.Dial(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(i.Authority())
	secure := tls.Client(conn, &tls.Config{ServerName: sni, RootCAs: roots})
	_ = secure.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(secure, text); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(secure), nil)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); bytes.Contains(body, []byte(secret)) {
		t.Errorf("the secret is in %q", body)
	}
	return res.StatusCode
}

func TestSecretsThatCannotBeHad(t *testing.T) {
	w := newWorld(t, Rule{Host: "api.example.org", Header: "Authorization", Secret: "other"})
	api := w.host(t, "203.0.113.1:443", nil, "api.example.org")
	res, body := get(t, client(t, w.Injector, at("203.0.113.1:443")), "https://api.example.org/")
	if res.code != http.StatusBadGateway || strings.Contains(body, secret) || !strings.Contains(body, "other") || api.last() != nil {
		t.Errorf("%+v: %q", res, body)
	}
	for _, bad := range []string{"short", "with a\r\nline: in it"} {
		r := Rule{Header: "X", Secret: "n"}
		if v, _, err := r.value(t.Context(), func(context.Context, string) (string, error) { return bad, nil }); err == nil || v != "" || strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %q, %v", bad, v, err)
		}
	}
}

// TestPlain injects into plain HTTP by a rule that says so, wherever the sandbox thinks that the host is.
func TestPlain(t *testing.T) {
	plain := apiRule
	plain.Plain = true
	w := newWorld(t, plain, Rule{Host: "inside.example.org", Header: "X-Key", Secret: "token", Plain: true})
	w.public = func(a netip.Addr) bool { return a != netip.MustParseAddr("10.0.0.1") }
	w.names["api.example.org"] = []netip.Addr{netip.MustParseAddr("203.0.113.1")}
	w.names["inside.example.org"] = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	api := w.host(t, "203.0.113.1:80", nil)
	evil := w.host(t, "203.0.113.66:80", nil)
	inside := w.host(t, "10.0.0.1:80", nil)
	c := client(t, w.Injector, at("203.0.113.66:80"))
	if res, _ := get(t, c, "http://api.example.org/"); res.code != 200 || evil.last() != nil || api.last().Header.Get("Authorization") != "Bearer "+secret {
		t.Errorf("%+v: %+v, %+v", res, evil.last(), api.last())
	}
	c.CloseIdleConnections()
	get(t, c, "http://evil.example/")
	if r := evil.last(); r == nil || r.Header.Get("Authorization") != "" {
		t.Errorf("%+v", r)
	}
	c.CloseIdleConnections()
	if res, _ := get(t, c, "http://inside.example.org/"); res.code != http.StatusBadGateway || inside.last() != nil {
		t.Errorf("%+v: %+v", res, inside.last())
	}
	// A rule that does not say so leaves plain HTTP alone.
	w = newWorld(t, apiRule)
	api = w.host(t, "203.0.113.1:80", nil)
	get(t, client(t, w.Injector, at("203.0.113.1:80")), "http://api.example.org/")
	if r := api.last(); r == nil || r.Header.Get("Authorization") != "" {
		t.Errorf("%+v", r)
	}
}

// TestPlainKeepsToTheSandboxsRules has the name lead to an address that the sandbox may not reach.
func TestPlainKeepsToTheSandboxsRules(t *testing.T) {
	plain := apiRule
	plain.Plain = true
	for rules, code := range map[string]int{
		"api.example.org": 200, "203.0.113.0/24:80": 200, "*": 200,
		"api.example.org:443": http.StatusBadGateway, "www.example.org": http.StatusBadGateway, "203.0.113.66": http.StatusBadGateway, "udp://*": http.StatusBadGateway,
	} {
		w := newWorld(t, plain)
		w.public = func(netip.Addr) bool { return true }
		var err error
		if w.cfg.Limit, err = egress.NewLimit(rules); err != nil {
			t.Fatal(err)
		}
		w.names["api.example.org"] = []netip.Addr{netip.MustParseAddr("203.0.113.1")}
		api := w.host(t, "203.0.113.1:80", nil)
		w.host(t, "203.0.113.66:80", nil)
		res, _ := get(t, client(t, w.Injector, at("203.0.113.66:80")), "http://api.example.org/")
		if res.code != code || (api.last() != nil) != (code == 200) {
			t.Errorf("%s: %+v, %+v", rules, res, api.last())
		}
	}
}

// TestInterimAnswers has the host send the secret back in an answer that comes before the last one.
func TestInterimAnswers(t *testing.T) {
	w := newWorld(t, apiRule)
	w.host(t, "203.0.113.1:443", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Link", "<"+r.Header.Get("Authorization")+">")
		rw.WriteHeader(http.StatusEarlyHints)
		rw.WriteHeader(http.StatusNoContent)
	}, "api.example.org")
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
		hints = append(hints, h.Get("Link"))
		return nil
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.example.org/", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client(t, w.Injector, at("203.0.113.1:443")).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if want := "<Bearer " + strings.Repeat("*", len(secret)) + ">"; len(hints) != 1 || hints[0] != want || res.Header.Get("Link") != want {
		t.Errorf("%q, %q; want %q", hints, res.Header, want)
	}
}

// TestUpgrade has both sides speak after a 101.
func TestUpgrade(t *testing.T) {
	w := newWorld(t, apiRule)
	w.host(t, "203.0.113.1:443", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Connection", "Upgrade")
		rw.Header().Set("Upgrade", "echo")
		rw.Header().Set("X-Echo", r.Header.Get("Authorization"))
		rw.WriteHeader(http.StatusSwitchingProtocols)
		conn, both, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.Copy(conn, both)
		_ = conn.Close()
	}, "api.example.org")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example.org/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	res, err := client(t, w.Injector, at("203.0.113.1:443")).Transport.RoundTrip(req) // the body of a Client cannot be written to
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusSwitchingProtocols || strings.Contains(fmt.Sprint(res.Header), secret) {
		t.Fatalf("%s %v", res.Status, res.Header)
	}
	// The end looks as if a secret began there: it comes all the same.
	if _, err := io.WriteString(res.Body.(io.Writer), "message s3cr"); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, len("message s3cr"))
	if _, err := io.ReadFull(res.Body, back); err != nil || string(back) != "message s3cr" {
		t.Errorf("%q, %v", back, err)
	}
}

// TestSecretsWithPartsInCommon are overwritten whole, in whatever order they are known and come in.
func TestSecretsWithPartsInCommon(t *testing.T) {
	const long, part, next = "key-of-the-host", "of-the-h", "host-and-more"
	for _, secrets := range [][]string{{long, part, next}, {part, next, long}, {next, part, long}} {
		for text, want := range map[string]string{
			"a key-of-the-host b":          "a *************** b",
			"a key-of-the-host-and-more b": "a ************************ b",
			"of-the-hos":                   "********os",
			"key-of-the-hoof":              "key-********oof",
		} {
			h := http.Header{"X": {text}}
			if redactHeader(h, secrets); h.Get("X") != want {
				t.Errorf("%q: %q", text, h.Get("X"))
			}
			for size := 1; size < len(text); size++ {
				if got, err := io.ReadAll(newRedactor(&pieces{[]byte(text), size}, secrets)); err != nil || string(got) != want {
					t.Errorf("%q in pieces of %d: %q, %v", text, size, got, err)
				}
			}
		}
	}
}

// TestFork has a copy get what the rules give it, and its programs trust who they trusted.
func TestFork(t *testing.T) {
	kept := Rule{Host: "kept.example.org", Header: "X-Key", Secret: "token", Fork: true}
	w := newWorld(t, apiRule, kept)
	api := w.host(t, "203.0.113.1:443", nil, "api.example.org")
	other := w.host(t, "203.0.113.2:443", nil, "kept.example.org")
	child := w.Fork(nil)
	grandchild := child.Fork(nil)
	defer child.Close()
	defer grandchild.Close()
	for _, i := range []*Injector{child, grandchild} {
		c := client(t, w.Injector, at("203.0.113.1:443"), w.ca.pem)
		c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, to string) (net.Conn, error) {
			if strings.HasPrefix(to, "kept.") {
				return i.Dial(ctx, network, "203.0.113.2:443")
			}
			return i.Dial(ctx, network, "203.0.113.1:443")
		}
		get(t, c, "https://api.example.org/")
		get(t, c, "https://kept.example.org/")
		if a, b := api.last().Header.Get("Authorization"), other.last().Header.Get("X-Key"); a != "" || b != secret {
			t.Errorf("api got %q, the other %q", a, b)
		}
	}
}

// TestAuthority holds the sandbox's authority to its names and its time.
func TestAuthority(t *testing.T) {
	w := newWorld(t, apiRule)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(w.Bundle([]byte("no certificate, without an end of line"))) {
		t.Fatal("nothing is in the bundle")
	}
	verify := func(host string, when time.Time) error {
		leaf, err := w.authority.leaf(host, when)
		if err != nil {
			t.Fatal(err)
		}
		_, err = leaf.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, CurrentTime: when})
		return err
	}
	now := time.Now()
	if err := verify("api.example.org", now); err != nil {
		t.Error(err)
	}
	if err := verify("api.example.org", now.Add(3*24*time.Hour)); err != nil { // a new leaf
		t.Error(err)
	}
	if verify("api.example.org", now.Add(8*24*time.Hour)) == nil {
		t.Error("it is good for more than its life")
	}
	for _, host := range []string{"evil.example", "example.org", "notapi.example.org"} {
		if verify(host, now) == nil {
			t.Errorf("it certifies %s", host)
		}
	}
	block, _ := pem.Decode(w.Authority())
	if bytes.Contains(w.Authority(), []byte("PRIVATE")) || block.Type != "CERTIFICATE" {
		t.Error("the authority is shown with more than its certificate")
	}
	if env := Environment(); !slices.Contains(env, "SSL_CERT_FILE="+BundleFile) {
		t.Errorf("%q", env)
	}
}

func TestRules(t *testing.T) {
	ok := Config{Dial: (&net.Dialer{}).DialContext, Secrets: func(context.Context, string) (string, error) { return "", nil }}
	for _, bad := range []Rule{
		{}, {Host: "*.example.org", Header: "X", Secret: "s"}, {Host: "Example.org", Header: "X", Secret: "s"}, {Host: "10.0.0.1", Header: "X", Secret: "s"},
		{Host: "example.org:443", Header: "X", Secret: "s"}, {Host: "example.org", Header: "X Y", Secret: "s"}, {Host: "example.org", Header: "Host", Secret: "s"},
		{Host: "example.org", Header: "content-length", Secret: "s"}, {Host: "example.org", Header: "X"}, {Host: "example.org", Header: "X", Secret: "s", Prefix: "a\nb"},
	} {
		c := ok
		c.Rules = []Rule{bad}
		if _, err := New(c); !errors.Is(err, ErrRule) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	c := ok
	c.Rules = []Rule{apiRule, apiRule}
	if _, err := New(c); !errors.Is(err, ErrRule) {
		t.Errorf("twice: %v", err)
	}
	c.Rules = make([]Rule, MaxRules+1)
	if _, err := New(c); !errors.Is(err, ErrRule) {
		t.Errorf("too many: %v", err)
	}
}

// TestClose ends what is going on.
func TestClose(t *testing.T) {
	w := newWorld(t, apiRule)
	began := make(chan struct{})
	w.host(t, "203.0.113.1:443", func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "x")
		rw.(http.Flusher).Flush()
		close(began)
		<-r.Context().Done()
	}, "api.example.org")
	c := client(t, w.Injector, at("203.0.113.1:443"))
	ended := make(chan error, 1)
	go func() {
		res, err := c.Get("https://api.example.org/")
		if err == nil {
			_, err = io.ReadAll(res.Body)
			_ = res.Body.Close()
		}
		ended <- err
	}()
	<-began
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("the request came to its end")
	}
	if _, err := w.Dial(t.Context(), "tcp", "203.0.113.1:443"); err == nil {
		t.Error("a closed injector dials")
	}
}

// FuzzPeek begins a flow with anything.
func FuzzPeek(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: api.example.org:80\r\n\r\nrest"))
	f.Add([]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"))
	a, b := net.Pipe()
	go func() { _ = tls.Client(a, &tls.Config{ServerName: "api.example.org"}).Handshake() }()
	hello := make([]byte, 4<<10)
	n, _ := b.Read(hello)
	_ = b.Close()
	f.Add(hello[:n])
	f.Fuzz(func(t *testing.T, said []byte) {
		for _, peek := range []func(io.Reader) (string, []byte){peekName, peekHost} {
			name, got := peek(bytes.NewReader(said))
			if !bytes.HasPrefix(said, got) || name != canonical(name) {
				t.Errorf("%q, %d bytes of %d", name, len(got), len(said))
			}
		}
	})
}

// FuzzRedactor has a stream come in pieces: its length stays, and no secret is in it.
func FuzzRedactor(f *testing.F) {
	f.Add([]byte("x"+secret+"y"), uint8(3))
	f.Add([]byte(secret[:8]+secret), uint8(1))
	f.Fuzz(func(t *testing.T, text []byte, size uint8) {
		got, err := io.ReadAll(newRedactor(&pieces{text, int(size)%7 + 1}, []string{secret, "aab-aab-aac"}))
		if err != nil || len(got) != len(text) || bytes.Contains(got, []byte(secret)) || bytes.Contains(got, []byte("aab-aab-aac")) {
			t.Errorf("%q became %q, %v", text, got, err)
		}
		for i := range got {
			if got[i] != text[i] && got[i] != '*' {
				t.Errorf("%q became %q", text, got)
			}
		}
	})
}

type pieces struct {
	text []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.text) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.text)
	p.text = p.text[n:]
	return n, nil
}
