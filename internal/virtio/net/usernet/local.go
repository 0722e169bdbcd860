package usernet

import (
	"context"
	"net"
	"net/netip"

	"github.com/aethervm/aether/internal/egress"
)

// outward sets what opens flows and looks up names where they are nil, to what this host's process has.
// Only then are the host's own addresses the policy's concern: elsewhere they are other ones.
func outward(p *policy, dial *func(ctx context.Context, network, address string) (net.Conn, error),
	resolve *func(ctx context.Context, name string) ([]netip.Addr, error)) {
	if *dial == nil {
		*dial = (&net.Dialer{}).DialContext
		p.local = egress.IsLocal
	}
	if *resolve == nil {
		*resolve = func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip4", name)
		}
	}
}
