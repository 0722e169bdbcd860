package usernet

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/aethervm/aether/internal/relay"
)

// udpIdle is how long a UDP flow lives without a datagram.
const udpIdle = 30 * time.Second

// destination is where a flow goes. For the stack, which pretends to be it, that is the local end.
func destination(id stack.TransportEndpointID) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4(id.LocalAddress.As4()), id.LocalPort)
}

// enter takes a place in a bounded set.
func enter(places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	default:
		return false
	}
}

// allows tells whether a flow may be opened. The gateway has nothing to connect to.
func (n *Network) allows(protocol string, to netip.AddrPort) bool {
	if to.Addr() != n.cfg.Gateway.Addr() && n.policy.allows(protocol, to) {
		return true
	}
	n.reports.add(Flow{Protocol: protocol, To: to})
	return false
}

// dial opens the gateway's own flow.
func (n *Network) dial(protocol string, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	return n.cfg.Dial(ctx, protocol, to.String())
}

// forwardTCP is called, on a goroutine of its own, for a connection that the guest opens. The guest's
// handshake is finished after the gateway's, so that the guest sees what became of that.
func (n *Network) forwardTCP(r *tcp.ForwarderRequest) {
	to := destination(r.ID())
	if !n.begin() {
		r.Complete(false)
		return
	}
	defer n.tasks.Done()
	if !n.allows(TCP, to) || !enter(n.tcp) {
		r.Complete(true)
		return
	}
	defer func() { <-n.tcp }()
	outside, err := n.dial(TCP, to)
	if err != nil {
		r.Complete(true)
		return
	}
	var wq waiter.Queue
	ep, tcpErr := r.CreateEndpoint(&wq)
	r.Complete(tcpErr != nil)
	if tcpErr != nil {
		_ = outside.Close()
		return
	}
	ep.SocketOptions().SetKeepAlive(true)
	n.splice(gonet.NewTCPConn(&wq, ep), outside)
}

// splice copies in both directions until both have ended, or one has failed.
func (n *Network) splice(guest, outside net.Conn) {
	if !n.track(guest) {
		_ = outside.Close()
		return
	}
	defer n.end(guest)
	if !n.track(outside) {
		return
	}
	defer n.end(outside)
	relay.Both(guest, outside)
}

// forwardUDP is called for the first datagram of a flow, and does not block. The stack answers with a
// port that is unreachable if it is not handled.
func (n *Network) forwardUDP(r *udp.ForwarderRequest) (handled bool) {
	to := destination(r.ID())
	isDNS := to == netip.AddrPortFrom(n.cfg.Gateway.Addr(), dnsPort)
	if (!isDNS && !n.allows(UDP, to)) || !enter(n.udp) {
		return false
	}
	var wq waiter.Queue
	ep, err := r.CreateEndpoint(&wq)
	if err != nil {
		<-n.udp
		return false
	}
	guest := gonet.NewUDPConn(&wq, ep)
	if !n.track(guest) || !n.begin() {
		<-n.udp
		return true
	}
	go func() {
		defer n.tasks.Done()
		defer func() { <-n.udp }()
		defer n.end(guest)
		if isDNS {
			n.serveDNS(guest)
			return
		}
		outside, err := n.dial(UDP, to)
		if err != nil || !n.track(outside) {
			return
		}
		defer n.end(outside)
		var back sync.WaitGroup
		back.Go(func() { n.relay(guest, outside) })
		n.relay(outside, guest)
		back.Wait()
	}()
	return true
}

// relay passes datagrams on until there are none for a while. The two directions of a flow keep each
// other alive.
func (n *Network) relay(to, from net.Conn) {
	buf := make([]byte, n.cfg.MTU)
	for {
		size, err := from.Read(buf)
		if err != nil {
			break
		}
		until := time.Now().Add(udpIdle)
		_ = from.SetReadDeadline(until)
		_ = to.SetReadDeadline(until)
		if _, err := to.Write(buf[:size]); err != nil {
			break
		}
	}
	// End the other direction too.
	_ = from.SetReadDeadline(time.Now())
	_ = to.SetReadDeadline(time.Now())
}
