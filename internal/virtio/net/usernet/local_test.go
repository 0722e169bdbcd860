package usernet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
)

// TestKeepFromHost has a dial that is the caller's, and the host's own addresses refused: but to rules for exactly them.
func TestKeepFromHost(t *testing.T) {
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, nil }
	for _, c := range []struct {
		rule    string
		refused bool
	}{{"127.0.0.0/8", true}, {"127.0.0.1/32", false}} {
		g, err := NewGuard([]Rule{{Prefix: netip.MustParsePrefix(c.rule)}}, dial, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Dial(t.Context(), TCP, "127.0.0.1:80"); err != nil {
			t.Errorf("%s, before: %v", c.rule, err)
		}
		g.KeepFromHost()
		if _, err := g.Dial(t.Context(), TCP, "127.0.0.1:80"); errors.Is(err, ErrDenied) != c.refused {
			t.Errorf("%s: %v", c.rule, err)
		}
	}
}
