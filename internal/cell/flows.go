package cell

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/virtio/net/usernet"
	"github.com/aethervm/aether/vmm"
)

const (
	// maxOpening bounds the flows and names that a cell asks for at one time. Its owner suffers twice as
	// many, since for it one ends a moment after the cell has the answer.
	maxOpening = 128
	// flowPatience is how long the opening of a flow may take.
	flowPatience = 30 * time.Second
)

// flows opens a guest's flows for its cell. It holds them to the rules, whatever the cell says.
type flows struct {
	network *vmm.Network
	guard   *usernet.Guard
	link    *link

	ctx       context.Context
	cancel    context.CancelFunc
	opening   chan struct{} // a place for each
	datagrams chan struct{} // a place for each UDP flow
	tasks     sync.WaitGroup
}

// newFlows returns nil for a cell without a network.
func newFlows(n *vmm.Network) (*flows, error) {
	if n == nil {
		return nil, nil
	}
	rules := make([]usernet.Rule, 0, len(n.Allow))
	for _, r := range n.Allow {
		rules = append(rules, usernet.Rule(r))
	}
	guard, err := usernet.NewGuard(rules, n.Dial, n.Resolve)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", vmm.ErrConfig, err)
	}
	if n.KeepFromHost {
		guard.KeepFromHost()
	}
	f := &flows{network: n, guard: guard, opening: make(chan struct{}, 2*maxOpening), datagrams: make(chan struct{}, maxDatagramFlows)}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f, nil
}

// part is what the cell is told about its network.
func (f *flows) part() *networkPart {
	if f == nil {
		return nil
	}
	return &networkPart{Allow: f.network.Allow, Interface: f.network.Interface, Report: f.network.Denied != nil}
}

// handle serves a message of the cell. It does not block: it is called by the goroutine that reads them.
func (f *flows) handle(m message) error {
	if m.Kind == kindDenied {
		f.denied(vmm.Flow{Protocol: m.Flow.Protocol, To: m.Flow.To, Name: m.Name, Count: m.Flow.Count})
		return nil
	}
	select {
	case f.opening <- struct{}{}:
	default:
		return fmt.Errorf("it asks for more than %d flows and names at one time", cap(f.opening))
	}
	f.tasks.Go(func() {
		defer func() { <-f.opening }()
		ctx, cancel := context.WithTimeout(f.ctx, flowPatience)
		defer cancel()
		answer, file, err := f.answer(ctx, m)
		if errors.Is(err, usernet.ErrDenied) {
			// The cell's own rules have let it pass: it does not know this host's addresses, and may lie.
			flow := vmm.Flow{Protocol: "dns", Name: m.Name, Count: 1}
			if m.Flow != nil {
				flow = vmm.Flow{Protocol: m.Flow.Protocol, To: m.Flow.To, Count: 1}
			}
			f.denied(flow)
		}
		answer.Kind, answer.ID, answer.Failure = kindAnswer, m.ID, fail(err)
		if file == nil {
			_ = f.link.send(answer) // when it fails, the cell is ending
			return
		}
		_ = f.link.send(answer, file)
		_ = file.Close()
	})
	return nil
}

// denied tells who wants to know what the guest was refused.
func (f *flows) denied(flow vmm.Flow) {
	if f.network.Denied != nil {
		f.network.Denied(flow)
	}
}

// closer is an open file that can be sent, and is closed here after that.
type closer interface {
	fder
	Close() error
}

func (f *flows) answer(ctx context.Context, m message) (message, closer, error) {
	if m.Kind == kindResolve {
		addrs, err := f.guard.Resolve(ctx, m.Name)
		return message{Addrs: addrs[:min(len(addrs), maxAddrs)]}, nil, err
	}
	if m.Flow.Protocol == "dns" {
		return message{}, nil, errors.New("no protocol of flows")
	}
	conn, err := f.guard.Dial(ctx, m.Flow.Protocol, m.Flow.To.String())
	if err != nil {
		return message{}, nil, err
	}
	if udp, ok := conn.(*net.UDPConn); ok {
		file, err := f.relay(udp)
		return message{}, file, err
	}
	defer func() { _ = conn.Close() }() // the duplicate below stays open
	var file closer
	switch conn := conn.(type) {
	case *net.TCPConn:
		file, err = conn.File()
	case *net.UnixConn:
		file, err = conn.File()
	default:
		err = fmt.Errorf("a %T is no socket that could be handed on", conn)
	}
	if err != nil {
		return message{}, nil, err
	}
	return message{}, file, nil
}

// close ends what is being opened, and waits for it.
func (f *flows) close() {
	f.cancel()
	f.tasks.Wait()
}
