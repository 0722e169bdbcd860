package aethervm

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// A copy has the rules of the original, a card and a record of its own, and has to look names up itself.
func TestEgressOfCopies(t *testing.T) {
	d := open(t)
	server := serve(t, "127.0.0.1:0")
	d.outside = outside{
		resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("203.0.113.7")}, nil
		},
		dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "tcp", server.Listener.Addr().String())
		},
	}
	b, err := d.Create(bounded(t), sandbox.Spec{Image: testenv.Image(t), VCPUs: vcpus(t), Network: sandbox.NetworkOutbound, Egress: []string{"allowed.example:80"}})
	if err != nil {
		t.Fatal(err)
	}
	reach(t, b, map[string]string{"http://allowed.example/": "hello allowed.example"})
	copies, err := b.(sandbox.Forker).Fork(bounded(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	reach(t, copies[0], map[string]string{"http://203.0.113.7/": "refused:", "http://denied.example/": "refused:"})
	reach(t, copies[0], map[string]string{"http://allowed.example/": "hello allowed.example"})
	refused(t, copies[0], "tcp 203.0.113.7:80", "dns denied.example")
	if log, err := b.(sandbox.EgressLogger).EgressLog(t.Context()); err != nil || len(log.Refused) != 0 {
		t.Errorf("the original's record: %+v, %v", log, err)
	}
	if one, other := b.(*Sandbox).network.card, copies[0].(*Sandbox).network.card; one.MAC == other.MAC {
		t.Errorf("both have the card %+v", one)
	}
}
