package cell

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/aethervm/aether/internal/virtio/net/usernet"
	"github.com/aethervm/aether/vmm"
)

// A cell is kept from the host's own addresses also where flows are opened for it, whatever it asks for.
func TestFlowsKeepFromHost(t *testing.T) {
	reached := errors.New("reached")
	for _, c := range []struct {
		rule    string
		refused bool
	}{{"127.0.0.0/8", true}, {"127.0.0.1/32", false}} {
		f, err := newFlows(&vmm.Network{
			Allow: []vmm.Rule{{Prefix: netip.MustParsePrefix(c.rule)}}, KeepFromHost: true,
			Dial: func(context.Context, string, string) (net.Conn, error) { return nil, reached },
		})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = f.answer(t.Context(), message{Kind: kindFlow, Flow: &flowMessage{Protocol: "tcp", To: netip.MustParseAddrPort("127.0.0.1:80")}})
		if errors.Is(err, usernet.ErrDenied) != c.refused || errors.Is(err, reached) == c.refused {
			t.Errorf("%s: %v", c.rule, err)
		}
		f.close()
	}
}
