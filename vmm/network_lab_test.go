package vmm_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/vmm"
)

// A guest with a card reaches what the rules allow, by name, and nothing else.
func TestNetwork(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "hello from afar")
			_ = conn.Close()
		}
	}()
	denied := make(chan vmm.Flow, 16)
	vm, client := bootGuest(t, func(c *vmm.Config) {
		c.Network = &vmm.Network{
			Allow:  []vmm.Rule{{Name: "service.example", FirstPort: 80, LastPort: 80, Protocol: "tcp"}},
			Denied: func(f vmm.Flow) { denied <- f },
			Resolve: func(_ context.Context, name string) ([]netip.Addr, error) {
				if strings.TrimSuffix(name, ".") != "service.example" {
					return nil, fmt.Errorf("unexpected name %q", name)
				}
				return []netip.Addr{netip.MustParseAddr("203.0.113.7")}, nil
			},
			Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				if network != "tcp" || address != "203.0.113.7:80" {
					return nil, fmt.Errorf("unexpected flow %s %s", network, address)
				}
				var d net.Dialer
				return d.DialContext(ctx, "tcp", listener.Addr().String())
			},
		}
	})
	card, ok := vm.Interface()
	if !ok {
		t.Fatal("no card")
	}
	err = client.Configure(ctx, agentproto.Config{Now: time.Now(),
		Network: agentproto.Network{Address: card.Address, Gateway: card.Gateway, MAC: card.MAC}})
	if err != nil {
		t.Fatal(err)
	}
	const fetch = `
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
print(s.recv(100).decode())
`
	if got, err := run(ctx, client, nil, "python3", "-c", fetch, "service.example", "80"); err != nil || got != "hello from afar\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := run(ctx, client, nil, "python3", "-c", fetch, "203.0.113.8", "80"); err == nil {
		t.Errorf("got %q from a host that is not allowed", got)
	}
	select {
	case f := <-denied:
		if f.To != netip.MustParseAddrPort("203.0.113.8:80") || f.Protocol != "tcp" {
			t.Errorf("denied %+v", f)
		}
	default:
		t.Error("nothing was denied")
	}
	// Others than at first: as after a fork.
	mac := [6]byte{2, 0, 0, 0, 0, 77}
	err = client.Configure(ctx, agentproto.Config{Network: agentproto.Network{
		Address: netip.MustParsePrefix("10.0.2.99/24"), Gateway: card.Gateway, MAC: mac}})
	if err != nil {
		t.Fatal(err)
	}
	const look = `
import fcntl, socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ask = lambda request: fcntl.ioctl(s, request, struct.pack("256s", b"eth0"))
print(socket.inet_ntoa(ask(0x8915)[20:24]), ask(0x8927)[18:24].hex(":"))
`
	want := fmt.Sprintf("10.0.2.99 %v\n", net.HardwareAddr(mac[:]))
	if got, err := run(ctx, client, nil, "python3", "-c", look); err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if got, err := run(ctx, client, nil, "python3", "-c", fetch, "service.example", "80"); err != nil || got != "hello from afar\n" {
		t.Errorf("with other addresses: %q, %v", got, err)
	}
}
