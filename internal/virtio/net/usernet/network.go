package usernet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/aethervm/aether/internal/egress"
)

// Flow is what a guest asked for.
type Flow struct {
	Protocol string // TCP, UDP, or "dns"; empty for flows of many kinds that are counted only
	To       netip.AddrPort
	Name     string // for "dns"
	// Count is how many times, in a report of what was denied.
	Count int64
}

// Config describes a network.
type Config struct {
	// Gateway is the gateway's address and the network, IPv4. The guest takes another address of it,
	// and has the gateway as its default route and its name server.
	Gateway netip.Prefix
	// MAC is the gateway's hardware address.
	MAC [6]byte
	// MTU is that of the guest's card.
	MTU int
	// Rules say what is allowed.
	Rules []Rule
	// Deliver takes frames to the guest.
	Deliver func(frame []byte)
	// Denied, if not nil, is told what was not allowed: of a few different flows a second, the rest is
	// counted. It does not block, and is called for one at a time.
	Denied func(Flow)
	// Dial opens the gateway's own flows; nil stands for a net.Dialer's, and for the host's own
	// addresses to be special. The address is numeric.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// KeepFromHost has the host's own addresses special with any Dial.
	KeepFromHost bool
	// Resolve looks up the IPv4 addresses of a name; nil stands for the host's resolver.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
}

const (
	nicID = 1
	// maxFlows bounds the flows of a guest, TCP's and UDP's each.
	maxFlows = 512
	// maxOpening bounds the TCP connections that are being opened.
	maxOpening = 128
	// sendQueue is how many frames may wait to be delivered.
	sendQueue = 512
	// dialTimeout is how long the opening of a flow may take.
	dialTimeout = 30 * time.Second
	// maxBuffer bounds what is kept of a TCP connection in each direction, in bytes: a guest may open
	// maxFlows of them and read none. Its round trip is so short that more would not be faster.
	maxBuffer = 256 << 10
	// receiveWindow of a TCP connection, at first, in bytes.
	receiveWindow = 64 << 10
)

// Network is the gateway of one guest. Its methods may be called concurrently.
type Network struct {
	cfg     Config
	gateway tcpip.Address
	policy  *policy
	stack   *stack.Stack
	link    *channel.Endpoint

	ctx    context.Context
	cancel context.CancelFunc
	tcp    chan struct{} // a place for each flow
	udp    chan struct{}

	reports reports
	sent    atomic.Uint64

	mu     sync.Mutex
	closed bool
	open   map[io.Closer]struct{}
	tasks  sync.WaitGroup
}

// New makes a network.
func New(cfg Config) (*Network, error) {
	if !cfg.Gateway.IsValid() || !cfg.Gateway.Addr().Is4() || cfg.MTU < header.IPv4MinimumMTU || cfg.Deliver == nil {
		return nil, fmt.Errorf("usernet: invalid configuration: gateway %v, MTU %d", cfg.Gateway, cfg.MTU)
	}
	p, err := newPolicy(cfg.Rules)
	if err != nil {
		return nil, err
	}
	outward(p, &cfg.Dial, &cfg.Resolve)
	if cfg.KeepFromHost {
		p.local = egress.IsLocal
	}
	n := &Network{
		cfg:     cfg,
		gateway: tcpip.AddrFrom4(cfg.Gateway.Addr().As4()),
		policy:  p,
		link:    channel.New(sendQueue, uint32(cfg.MTU+header.EthernetMinimumSize), tcpip.LinkAddress(cfg.MAC[:])),
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
		}),
		reports: reports{tell: cfg.Denied},

		tcp:  make(chan struct{}, maxFlows),
		udp:  make(chan struct{}, maxFlows),
		open: map[io.Closer]struct{}{},
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if err := n.setUp(); err != nil {
		_ = n.Close()
		return nil, err
	}
	n.tasks.Go(n.deliver)
	return n, nil
}

// setUp makes the stack take every packet, whatever its destination, and hand flows to the forwarders.
func (n *Network) setUp() error {
	tcpForwarder := tcp.NewForwarder(n.stack, receiveWindow, maxOpening, n.forwardTCP)
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tcpForwarder.HandlePacket)
	udpForwarder := udp.NewForwarder(n.stack, n.forwardUDP)
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udpForwarder.HandlePacket)
	address := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: n.gateway, PrefixLen: n.cfg.Gateway.Bits()},
	}
	sack := tcpip.TCPSACKEnabled(true)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: maxBuffer, Max: maxBuffer}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: maxBuffer, Max: maxBuffer}
	for _, err := range []tcpip.Error{
		n.stack.CreateNIC(nicID, ethernet.New(n.link)),
		n.stack.SetPromiscuousMode(nicID, true),
		n.stack.SetSpoofing(nicID, true),
		n.stack.AddProtocolAddress(nicID, address, stack.AddressProperties{}),
		n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack),
		n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &send),
		n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &receive),
	} {
		if err != nil {
			return fmt.Errorf("usernet: %s", err)
		}
	}
	n.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}})
	return nil
}

// Send takes a frame of the guest, of any content. It does not keep it.
func (n *Network) Send(frame []byte) {
	n.sent.Add(uint64(len(frame)))
	if n.ctx.Err() != nil || n.isForeignPing(frame) {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	n.link.InjectInbound(0, pkt) // the protocol is in the frame
	pkt.DecRef()
}

// Sent is how many bytes the guest has sent in frames, whatever has become of them.
func (n *Network) Sent() uint64 { return n.sent.Load() }

// isForeignPing tells whether a frame has an ICMP packet that is not for the gateway. The stack, which
// takes itself for everybody, would answer it, and the guest would take it for a sign of life.
func (n *Network) isForeignPing(frame []byte) bool {
	const ip = header.EthernetMinimumSize
	if len(frame) < ip+header.IPv4MinimumSize || header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
		return false
	}
	packet := header.IPv4(frame[ip:])
	return packet.TransportProtocol() == header.ICMPv4ProtocolNumber && packet.DestinationAddress() != n.gateway
}

// deliver takes the stack's frames to the guest.
func (n *Network) deliver() {
	for {
		pkt := n.link.ReadContext(n.ctx)
		if pkt == nil {
			return
		}
		view := pkt.ToView()
		pkt.DecRef()
		n.cfg.Deliver(view.AsSlice())
		view.Release()
	}
}

// begin announces a task, for which Close waits. It tells whether the network is open still.
func (n *Network) begin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.tasks.Add(1)
	}
	return !n.closed
}

// track has Close close something. It tells whether the network is open still; otherwise it is closed
// already.
func (n *Network) track(c io.Closer) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		_ = c.Close()
		return false
	}
	n.open[c] = struct{}{}
	return true
}

// end closes what was tracked.
func (n *Network) end(c io.Closer) {
	n.mu.Lock()
	delete(n.open, c)
	n.mu.Unlock()
	_ = c.Close()
}

// Close ends all flows and returns when nothing of the network is left. Frames are then dropped.
func (n *Network) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	var err error
	for c := range n.open {
		if closeErr := c.Close(); !errors.Is(closeErr, net.ErrClosed) {
			err = errors.Join(err, closeErr)
		}
	}
	n.mu.Unlock()
	n.cancel()
	n.tasks.Wait()
	n.link.Close()
	n.stack.Destroy()
	n.reports.close()
	return err
}
