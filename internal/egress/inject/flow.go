package inject

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/relay"
	"github.com/aethervm/aether/sandbox"
)

const (
	dialTimeout      = 30 * time.Second
	handshakeTimeout = 15 * time.Second
	maxAnswerHeader  = 256 << 10
	keptUpstream     = time.Minute
)

// flow is one of the sandbox's, from its beginning on.
type flow struct {
	i     *Injector
	guest *net.UnixConn  // from the sandbox
	to    netip.AddrPort // where that wanted it to go

	// Of one to a host of a rule:
	host      string
	plain     bool
	transport *http.Transport

	mu      sync.Mutex
	outside net.Conn // to there; nil when somebody has it
}

type flowKey struct{}

// flowConn is a flow that the HTTP server serves.
type flowConn struct {
	net.Conn
	flow *flow
	once sync.Once
}

// Close ends what the flow has, too.
func (c *flowConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.flow.close)
	return err
}

// begin looks at what a flow is, and passes it on to the server or to where it wants to go.
func (f *flow) begin(secure, plain bool) {
	guest := f.guest
	_ = guest.SetReadDeadline(time.Now().Add(peekPatience))
	conn := &seenConn{Conn: guest}
	var host string
	if secure {
		host, conn.seen = peekName(guest)
		plain = plain && host == ""
	}
	isPlain := false
	if len(f.i.rules(host, f.to.Port(), false)) == 0 {
		host = ""
	}
	if host == "" && plain {
		host, conn.seen = peekHost(&seenConn{guest, conn.seen})
		if isPlain = len(f.i.rules(host, f.to.Port(), true)) > 0; !isPlain {
			host = ""
		}
	}
	_ = guest.SetReadDeadline(time.Time{})
	if host == "" {
		f.pass(conn.seen)
		return
	}
	f.host, f.plain = host, isPlain
	f.transport = &http.Transport{
		DialContext: f.dialPlain, DialTLSContext: f.dialTLS, DisableCompression: true,
		MaxIdleConns: 2, IdleConnTimeout: keptUpstream, MaxResponseHeaderBytes: maxAnswerHeader,
	}
	served := &flowConn{Conn: conn, flow: f}
	if !isPlain {
		served.Conn = tls.Server(conn, f.i.certificate(host))
	}
	if !f.i.accepted.hand(served) {
		_ = served.Close()
	}
}

// close gives back what the flow holds.
func (f *flow) close() {
	f.i.end(f.guest)
	if f.transport != nil {
		f.transport.CloseIdleConnections()
	}
	if c := f.takeOutside(); c != nil {
		f.i.end(c)
	}
}

func (f *flow) takeOutside() net.Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.outside
	f.outside = nil
	return c
}

// pass copies in both directions until both have ended, or one has failed.
func (f *flow) pass(seen []byte) {
	guest, outside := f.guest, f.takeOutside()
	defer f.i.end(guest)
	defer f.i.end(outside)
	if _, err := outside.Write(seen); err != nil {
		return
	}
	relay.Both(guest, outside)
}

// dialTLS connects to where the sandbox wanted to go, if that is the host.
func (f *flow) dialTLS(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn := f.takeOutside()
	if conn == nil {
		var err error
		if conn, err = f.i.cfg.Dial(ctx, "tcp", f.to.String()); err != nil {
			return nil, err
		}
		if !f.i.track(conn) {
			return nil, net.ErrClosed
		}
	}
	shake, done := context.WithTimeout(ctx, handshakeTimeout)
	defer done()
	secure := tls.Client(conn, &tls.Config{ServerName: f.host, RootCAs: f.i.cfg.Roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, Time: f.i.now})
	if err := secure.HandshakeContext(shake); err != nil {
		f.i.end(conn)
		return nil, fmt.Errorf("%s at %s: %w", f.host, f.to, err)
	}
	return &tracked{secure, f.i, conn}, nil
}

// dialPlain connects to the host, wherever the sandbox wanted to go.
func (f *flow) dialPlain(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if c := f.takeOutside(); c != nil {
		f.i.end(c)
	}
	addrs, err := f.i.cfg.Resolve(ctx, f.host)
	if err != nil {
		return nil, err
	}
	err = fmt.Errorf("%s has no public address that the sandbox may reach", f.host)
	for _, a := range addrs {
		if a = a.Unmap(); !f.i.public(a) || !f.may(a) {
			continue
		}
		var conn net.Conn
		if conn, err = f.i.cfg.Dial(ctx, "tcp", netip.AddrPortFrom(a, f.to.Port()).String()); err != nil {
			continue
		}
		if !f.i.track(conn) {
			return nil, net.ErrClosed
		}
		return &tracked{conn, f.i, conn}, nil
	}
	return nil, err
}

// may tells whether the sandbox may connect to an address of the host at the flow's port: by the host's name, or by the
// address.
func (f *flow) may(a netip.Addr) bool {
	limit := f.i.cfg.Limit
	if limit == nil {
		return true
	}
	flow := sandbox.EgressRule{Protocol: "tcp", Name: f.host, FirstPort: f.to.Port(), LastPort: f.to.Port()}
	if limit.Check(flow) == nil {
		return true
	}
	flow.Name, flow.Prefix = "", netip.PrefixFrom(a, a.BitLen())
	return limit.Check(flow) == nil
}

// tracked is a connection that the injector's Close closes.
type tracked struct {
	net.Conn
	i    *Injector
	what net.Conn
}

func (t *tracked) Close() error {
	t.i.end(t.what)
	return nil
}

// pair makes two connected sockets.
func pair() (a, b *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conn, connErr := net.FileConn(file) // a duplicate
		_ = file.Close()
		err = errors.Join(err, connErr)
		conns[i], _ = conn.(*net.UnixConn)
	}
	if err != nil {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
		return nil, nil, err
	}
	return conns[0], conns[1], nil
}

// handedOver is a listener that takes connections from those who have them.
type handedOver struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandedOver() *handedOver {
	return &handedOver{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (h *handedOver) hand(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
		return false
	}
}

// Accept is net.Listener's, as are the methods that follow.
func (h *handedOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handedOver) close() { h.once.Do(func() { close(h.done) }) }

// Close ends Accept.
func (h *handedOver) Close() error { h.close(); return nil }

// Addr is of no use to anybody.
func (h *handedOver) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }
