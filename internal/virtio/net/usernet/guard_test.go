package usernet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
)

func TestGuard(t *testing.T) {
	var dialled []string
	g, err := NewGuard([]Rule{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Protocol: TCP}, {Name: "good.example", FirstPort: 443, LastPort: 443}},
		func(_ context.Context, network, address string) (net.Conn, error) {
			dialled = append(dialled, network+" "+address)
			return nil, nil
		},
		func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("127.0.0.1")}, nil
		})
	if err != nil {
		t.Fatal(err)
	}
	dial := func(protocol, address string) error {
		_, err := g.Dial(t.Context(), protocol, address)
		return err
	}
	for _, c := range []struct{ protocol, address string }{
		{UDP, "192.0.2.1:80"}, {TCP, "198.51.100.7:443"}, {TCP, "127.0.0.1:80"}, {"unix", "192.0.2.1:80"},
	} {
		if err := dial(c.protocol, c.address); !errors.Is(err, ErrDenied) {
			t.Errorf("%v: %v", c, err)
		}
	}
	if err := dial(TCP, "good.example:443"); err == nil {
		t.Error("a name as an address")
	}
	if _, err := g.Resolve(t.Context(), "bad.example"); !errors.Is(err, ErrDenied) {
		t.Error(err)
	}
	if addrs, err := g.Resolve(t.Context(), "good.example"); err != nil || len(addrs) != 1 {
		t.Errorf("%v, %v", addrs, err)
	}
	for _, address := range []string{"192.0.2.1:80", "198.51.100.7:443"} {
		if err := dial(TCP, address); err != nil {
			t.Error(err)
		}
	}
	if err := dial(TCP, "198.51.100.7:80"); !errors.Is(err, ErrDenied) {
		t.Error("a port that no rule allows")
	}
	if len(dialled) != 2 {
		t.Errorf("dialled %q", dialled)
	}
	if _, err := NewGuard([]Rule{{}}, nil, nil); !errors.Is(err, ErrRule) {
		t.Error(err)
	}
}
