package sandboxtest

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

// testOutside is about flows that are opened for a sandbox. A system may be unable to have that done.
func (s *suite) testOutside(t *testing.T) {
	s.test(t, "OutsideIsUsedOrRefused", func(t *testing.T, d sandbox.Driver) {
		spec := s.spec()
		out := &nowhere{}
		spec.Network, spec.Egress, spec.Outside = sandbox.NetworkOutbound, []string{"192.0.2.1:9"}, out
		ctx, cancel := bounded(t)
		defer cancel()
		raw, err := d.Create(ctx, spec)
		if errors.Is(err, sandbox.ErrUnsupported) {
			if e, ok := errors.AsType[*sandbox.Error](err); !ok || e.Remedy == "" {
				t.Errorf("no remedy: %v", err)
			}
			if out.closed || len(out.dialed) > 0 {
				t.Errorf("of a sandbox that there is not: %+v", out)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		b := &box{raw}
		const connect = `
import socket
for to in ("192.0.2.1", 9), ("192.0.2.2", 9), ("169.254.169.254", 80):
    try:
        socket.create_connection(to, 3)
        print("connected to", to)
    except OSError:
        pass
`
		if got := b.must(t, "python3", "-c", connect); got != "" {
			t.Errorf("it has %s", got)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		out.mu.Lock()
		defer out.mu.Unlock()
		if len(out.dialed) == 0 || slices.ContainsFunc(out.dialed, func(to string) bool { return to != "tcp 192.0.2.1:9" }) || !out.closed {
			t.Errorf("it was dialed %q, closed: %v", out.dialed, out.closed)
		}
	})
}

// nowhere is a sandbox.Outside that opens nothing.
type nowhere struct {
	mu     sync.Mutex
	dialed []string
	closed bool
}

func (n *nowhere) Dial(_ context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dialed = append(n.dialed, network+" "+address)
	return nil, errors.New("there is nothing")
}

func (n *nowhere) Copy() sandbox.Outside { return &nowhere{} }

func (n *nowhere) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	return nil
}
