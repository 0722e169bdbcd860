package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/aethervm/aether/internal/egress"
)

// ErrDenied is wrapped by errors about what no rule allows.
var ErrDenied = errors.New("usernet: not allowed")

// Guard opens flows and looks up names within rules, for a Network that runs in a process that cannot,
// or that is not trusted to keep to its rules. Its methods may be called concurrently.
type Guard struct {
	policy  *policy
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	resolve func(ctx context.Context, name string) ([]netip.Addr, error)
}

// NewGuard makes a guard. dial and resolve are as in Config, and may be nil.
func NewGuard(rules []Rule,
	dial func(ctx context.Context, network, address string) (net.Conn, error),
	resolve func(ctx context.Context, name string) ([]netip.Addr, error),
) (*Guard, error) {
	p, err := newPolicy(rules)
	if err != nil {
		return nil, err
	}
	outward(p, &dial, &resolve)
	return &Guard{policy: p, dial: dial, resolve: resolve}, nil
}

// KeepFromHost has the host's own addresses refused although there was a dial. It is called before any other method.
func (g *Guard) KeepFromHost() { g.policy.local = egress.IsLocal }

// Dial opens a flow if a rule allows it. protocol is TCP or UDP, the address numeric.
func (g *Guard) Dial(ctx context.Context, protocol, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	if protocol != TCP && protocol != UDP || !g.policy.allows(protocol, to) {
		return nil, fmt.Errorf("%w: %s to %s", ErrDenied, protocol, to)
	}
	return g.dial(ctx, protocol, to.String())
}

// Resolve looks up a name if a rule is about it, and remembers its addresses for Dial. It returns those
// that can be used.
func (g *Guard) Resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	if !g.policy.allowsName(name) {
		return nil, fmt.Errorf("%w: name %q", ErrDenied, name)
	}
	// Absolute, lest the host's resolver appends its own domain.
	addrs, err := g.resolve(ctx, canonical(name)+".")
	if err != nil {
		return nil, err
	}
	return g.policy.resolved(name, addrs), nil
}
