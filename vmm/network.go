package vmm

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	virtionet "github.com/aethervm/aether/internal/virtio/net"
	"github.com/aethervm/aether/internal/virtio/net/usernet"
)

// Network is the network of one guest, which ends at this host: a gateway in user space takes the
// guest's TCP and UDP flows and opens its own in their place, if the rules allow them. It also answers
// DNS, for allowed names. All else is denied; nothing can be opened towards the guest. IPv4 only.
//
// The guest learns its address from its host, for which see [VM.Interface].
type Network struct {
	// Allow are the rules; a flow must match one of them. None allows nothing.
	Allow []Rule
	// Denied, if not nil, is told what was not allowed: a few different flows a second, the rest is counted.
	// It may be called from several goroutines, and is not to block.
	Denied func(Flow)
	// Interface are the guest's addresses. What is zero gets a default, which is the same for every
	// VM, as no VM sees another one's network.
	Interface Interface
	// Dial opens the gateway's own flows; nil stands for a net.Dialer's, with which the host's own
	// addresses are reached only by rules for exactly them. The address is numeric.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// KeepFromHost has the host's own addresses reached only by rules for exactly them with any Dial.
	KeepFromHost bool
	// Resolve looks up the IPv4 addresses of a name, which ends in a dot; nil stands for the host's
	// resolver.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
}

// Interface is the addresses of a guest's network card.
type Interface struct {
	// Address is the guest's, and its network.
	Address netip.Prefix
	// Gateway is the address of the default route and of the name server, in the same network.
	Gateway netip.Addr
	// MAC is the card's hardware address.
	MAC [6]byte
}

// Rule allows flows to a network or a name, which is one of both, and to ports.
type Rule struct {
	// Prefix is a network, IPv4. Private and other special networks are reached only by rules for
	// nothing but them.
	Prefix netip.Prefix
	// Name is a domain name, or "*." and one: all names below it, but not itself; or "*": all names.
	Name string
	// FirstPort and LastPort are the range of ports; both 0 stand for all ports.
	FirstPort, LastPort uint16
	// Protocol is "tcp", "udp", or empty for both.
	Protocol string
}

// Flow is what a guest asked for.
type Flow struct {
	// Protocol is "tcp", "udp" or "dns"; empty for many different flows, of which only Count is known.
	Protocol string
	// To is the destination.
	To netip.AddrPort
	// Name is what was to be resolved, of "dns".
	Name string
	// Count is how many times, since the last report of this flow.
	Count int64
}

// Defaults of an Interface, and the gateway's hardware address.
var (
	defaultAddress = netip.MustParsePrefix("10.0.2.15/24")
	defaultGateway = netip.MustParseAddr("10.0.2.2")
	defaultMAC     = [6]byte{0x02, 0xae, 0, 0, 0, 0x0f} // locally administered
	gatewayMAC     = [6]byte{0x02, 0xae, 0, 0, 0, 0x02}
)

// settle returns the interface with its defaults.
func (n *Network) settle() Interface {
	i := n.Interface
	if !i.Address.IsValid() && !i.Gateway.IsValid() {
		i.Address, i.Gateway = defaultAddress, defaultGateway
	}
	if i.MAC == [6]byte{} {
		i.MAC = defaultMAC
	}
	return i
}

func (n *Network) check() error {
	i := n.settle()
	switch {
	case !i.Address.IsValid() || !i.Address.Addr().Is4() || !i.Address.Contains(i.Gateway) || i.Address.Addr() == i.Gateway:
		return fmt.Errorf("%w: guest address %v with gateway %v: two IPv4 addresses of one network are needed", ErrConfig, i.Address, i.Gateway)
	case i.MAC[0]&1 != 0 || i.MAC == gatewayMAC:
		return fmt.Errorf("%w: hardware address %v is not one of a single card, or the gateway's", ErrConfig, net.HardwareAddr(i.MAC[:]))
	}
	return nil
}

// plug makes the card and what it is plugged into.
func (n *Network) plug() (*virtionet.Device, *usernet.Network, error) {
	i := n.settle()
	cfg := usernet.Config{
		Gateway: netip.PrefixFrom(i.Gateway, i.Address.Bits()), MAC: gatewayMAC, MTU: virtionet.MTU,
		Dial: n.Dial, Resolve: n.Resolve, KeepFromHost: n.KeepFromHost,
	}
	for _, r := range n.Allow {
		cfg.Rules = append(cfg.Rules, usernet.Rule(r))
	}
	if n.Denied != nil {
		cfg.Denied = func(f usernet.Flow) { n.Denied(Flow(f)) }
	}
	out := &wire{}
	card := virtionet.New(i.MAC, out)
	cfg.Deliver = card.Deliver
	var err error
	if out.gateway, err = usernet.New(cfg); err != nil {
		return nil, nil, fmt.Errorf("%w: network: %w", ErrConfig, err)
	}
	return card, out.gateway, nil
}

// wire leads from the card to the gateway, each of which has to be made with the other one. Nothing is
// sent before both are there, as the guest does not run.
type wire struct{ gateway *usernet.Network }

func (w *wire) Send(frame []byte) { w.gateway.Send(frame) }
