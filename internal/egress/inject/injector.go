package inject

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/egress"
)

const (
	httpPort  = 80
	httpsPort = 443

	maxHeader     = 64 << 10
	headerTimeout = 30 * time.Second
	idleTimeout   = 2 * time.Minute
)

// Config is what an Injector is made of.
type Config struct {
	// Rules are at most MaxRules.
	Rules []Rule
	// Secrets finds the credential of a name, for each request. Its error is shown to nobody.
	Secrets func(ctx context.Context, name string) (string, error)
	// Dial opens a flow; network is "tcp" or "udp", the address numeric. The injector's caller has found that the
	// sandbox may have it.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolve looks up the IPv4 addresses of a name, for plain HTTP; nil stands for the host's resolver. Those that
	// are not public, or that Limit does not have, are not used.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	// Limit is what the sandbox may reach; nil is all. Dial's address has been held to it, one that the injector looks
	// up has not.
	Limit *egress.Limit
	// Roots are whom the injector trusts; nil stands for the host's.
	Roots *x509.CertPool
	// Report, if not nil, is told of every request to a host of a rule. It must not block.
	Report func(Event)
}

// Event is a request to the host of a rule. It has nothing that a credential may be in.
type Event struct {
	Host string `json:"host"`
	// Secrets are the names of those that the request was, or would have been, given.
	Secrets []string `json:"secrets,omitempty"`
	// Method is a common one of HTTP, or "other".
	Method string `json:"method,omitempty"`
	// Status is that of the answer; 0 if there was none.
	Status int `json:"status,omitempty"`
	// Refused says why the request was not sent on, or a secret not had. It is empty for one that may have reached the
	// host with the credential, whether that has answered or not.
	Refused string `json:"refused,omitempty"`
}

// Injector opens the flows of one sandbox. Its methods may be called concurrently.
type Injector struct {
	cfg       Config
	authority *authority
	public    func(netip.Addr) bool
	now       func() time.Time
	server    *http.Server
	accepted  *handedOver
	record    record

	ctx  context.Context
	stop context.CancelFunc

	mu     sync.Mutex
	closed bool
	open   map[io.Closer]struct{}
	tasks  sync.WaitGroup
}

// New makes an injector, with an authority of its own.
func New(cfg Config) (*Injector, error) {
	if len(cfg.Rules) > MaxRules {
		return nil, fmt.Errorf("%w: there are %d, and at most %d are kept", ErrRule, len(cfg.Rules), MaxRules)
	}
	var hosts []string
	for i, r := range cfg.Rules {
		if err := r.Check(); err != nil {
			return nil, err
		}
		for _, other := range cfg.Rules[:i] {
			if other.Host == r.Host && other.port() == r.port() && http.CanonicalHeaderKey(other.Header) == http.CanonicalHeaderKey(r.Header) {
				return nil, fmt.Errorf("%w: two set the header %s for %s", ErrRule, r.Header, r.Host)
			}
		}
		if !slices.Contains(hosts, r.Host) {
			hosts = append(hosts, r.Host)
		}
	}
	if cfg.Dial == nil || cfg.Secrets == nil {
		return nil, errors.New("inject: there is nothing to dial with, or nobody to ask for secrets")
	}
	if len(hosts) == 0 {
		hosts = []string{"invalid"} // none would be no bound
	}
	a, err := newAuthority(hosts, time.Now())
	if err != nil {
		return nil, err
	}
	return start(cfg, a), nil
}

func start(cfg Config, a *authority) *Injector {
	if cfg.Resolve == nil {
		cfg.Resolve = func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip4", name+".") // absolute: the host's own domain is not tried
		}
	}
	i := &Injector{cfg: cfg, authority: a, now: time.Now, accepted: newHandedOver(), open: map[io.Closer]struct{}{},
		public: func(a netip.Addr) bool { return egress.IsPublic(a) && !egress.IsLocal(a) }}
	i.ctx, i.stop = context.WithCancel(context.Background())
	i.server = &http.Server{
		Handler: i, ErrorLog: log.New(io.Discard, "", 0), MaxHeaderBytes: maxHeader, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		DisableGeneralOptionsHandler: true,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, flowKey{}, c.(*flowConn).flow)
		},
	}
	i.tasks.Go(func() { _ = i.server.Serve(i.accepted) })
	return i
}

// Fork makes the injector of a copy of the sandbox, with the rules that are for copies too. It opens its flows in the
// same way; report, which may be nil, is told of them.
func (i *Injector) Fork(report func(Event)) *Injector {
	cfg := i.cfg
	cfg.Report = report
	cfg.Rules = nil
	for _, r := range i.cfg.Rules {
		if r.Fork {
			cfg.Rules = append(cfg.Rules, r)
		}
	}
	f := start(cfg, i.authority)
	f.public, f.now = i.public, i.now
	return f
}

// Authority is the certificate that the sandbox must trust, as PEM.
func (i *Injector) Authority() []byte { return slices.Clone(i.authority.pem) }

// rules are those about a host, at a port of HTTPS, or plain.
func (i *Injector) rules(host string, port uint16, plain bool) []Rule {
	var list []Rule
	for _, r := range i.cfg.Rules {
		if r.Host == host && (plain && r.Plain || !plain && r.port() == port) {
			list = append(list, r)
		}
	}
	return list
}

// watches tells whether some rule is about flows to a port.
func (i *Injector) watches(port uint16) (secure, plain bool) {
	for _, r := range i.cfg.Rules {
		secure = secure || r.port() == port
		plain = plain || r.Plain && port == httpPort
	}
	return secure, plain
}

// Dial opens a flow of the sandbox, as Config.Dial does. What it returns is that connection itself, or a
// *net.UnixConn.
func (i *Injector) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	outside, err := i.cfg.Dial(ctx, network, address)
	if err != nil || network != "tcp" {
		return outside, err
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, errors.Join(err, outside.Close())
	}
	secure, plain := i.watches(to.Port())
	if !secure && !plain {
		return outside, nil
	}
	theirs, ours, err := pair()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("inject: %w", err), outside.Close())
	}
	f := &flow{i: i, guest: ours, to: to, outside: outside}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil, errors.Join(net.ErrClosed, theirs.Close(), ours.Close(), outside.Close())
	}
	i.open[ours], i.open[outside] = struct{}{}, struct{}{}
	i.tasks.Go(func() { f.begin(secure, plain) })
	return theirs, nil
}

// track has Close close something. If that has happened already it is closed at once.
func (i *Injector) track(c io.Closer) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		_ = c.Close()
		return false
	}
	i.open[c] = struct{}{}
	return true
}

// end closes what was tracked.
func (i *Injector) end(c io.Closer) {
	i.mu.Lock()
	delete(i.open, c)
	i.mu.Unlock()
	_ = c.Close()
}

// enter announces a request, for which Close waits. It tells whether the injector is open still.
func (i *Injector) enter() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.closed {
		i.tasks.Add(1)
	}
	return !i.closed
}

// Close ends all flows and returns when none is left. It is idempotent.
func (i *Injector) Close() error {
	i.mu.Lock()
	i.closed = true
	for c := range i.open {
		_ = c.Close()
	}
	i.mu.Unlock()
	i.stop()
	err := i.server.Close()
	i.accepted.close()
	i.tasks.Wait()
	return err
}

func (i *Injector) report(e Event) {
	i.record.add(e, time.Now())
	if i.cfg.Report != nil {
		i.cfg.Report(e)
	}
}

// certificate answers the handshake of a client that wants host, whatever it says later.
func (i *Injector) certificate(host string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.authority.leaf(host, i.now()) },
	}
}
