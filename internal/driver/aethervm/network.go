package aethervm

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vmm"
)

// network is what a sandbox has of the outside: nothing if it is nil.
type network struct {
	card    vmm.Interface
	rules   []vmm.Rule
	outside outside
	// through, if not nil, opens the flows. The sandbox owns it.
	through sandbox.Outside
	refused refusals
}

// outside is how flows leave the host. A test has its own; the zero value is what the host has.
type outside struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	resolve func(ctx context.Context, name string) ([]netip.Addr, error)
}

// newNetwork returns the network of a sandbox, nil for none. The error is one of the contract.
func newNetwork(op string, spec sandbox.Spec, out outside, all *cards) (*network, error) {
	rules, err := spec.EgressRules()
	if err != nil || len(rules) == 0 {
		return nil, err
	}
	n := &network{outside: out, through: spec.Outside}
	for _, r := range rules {
		rule := vmm.Rule{Prefix: r.Prefix, Name: r.Name, FirstPort: r.FirstPort, LastPort: r.LastPort, Protocol: r.Protocol}
		n.rules = append(n.rules, rule)
		if r.Name == sandbox.EveryName {
			rule.Name, rule.Prefix = "", netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			n.rules = append(n.rules, rule)
		}
	}
	var ok bool
	if n.card, ok = all.next(n.rules); !ok {
		return nil, &sandbox.Error{Op: op, System: System, Err: sandbox.ErrUnsupported,
			Detail: "the rules name all of " + cardRange.String() + ", in which guests have their addresses",
			Remedy: "name a smaller part of that network"}
	}
	return n, nil
}

// cardRange is where guests have their addresses: a network that is for tests of devices (RFC 2544), and
// so none that a guest wants to reach. Each one's is of four addresses, its own and the gateway's among
// them, and ends at this host, so that it does not matter if two guests have the same.
var cardRange = netip.MustParsePrefix("198.18.0.0/15")

const (
	cardBits = 30
	// cardCount is how many networks there are.
	cardCount = 1 << (cardBits - 15)
)

// cards chooses the addresses of a driver's network cards: it goes through all networks of the range, from a random one on
// and by random steps, so that of one driver's sandboxes no two have the same until all have been used. The zero value is
// ready. It may be used concurrently.
type cards struct {
	mu       sync.Mutex
	at, step uint32 // step is odd, once it is chosen: only then the way leads through all
}

// next chooses the addresses of a network card, none of which a rule names.
func (c *cards) next(rules []vmm.Rule) (vmm.Interface, bool) {
	var random [10]byte
	_, _ = rand.Read(random[:]) // never fails
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.step == 0 {
		c.at, c.step = binary.BigEndian.Uint32(random[2:]), binary.BigEndian.Uint32(random[6:])|1
	}
	first := binary.BigEndian.Uint32(cardRange.Addr().AsSlice())
	for range cardCount {
		c.at = (c.at + c.step) % cardCount
		base := first + c.at<<(32-cardBits)
		if !named(rules, at(base)) {
			// Locally administered.
			mac := [6]byte{2, 0xae, random[0], random[1], byte(c.at >> 8), byte(c.at)}
			return vmm.Interface{Address: at(base + 2), Gateway: at(base + 1).Addr(), MAC: mac}, true
		}
	}
	return vmm.Interface{}, false
}

func at(address uint32) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, address))), cardBits)
}

// named tells whether a rule is about a part of the network in the range, and not just about everything.
func named(rules []vmm.Rule, network netip.Prefix) bool {
	for _, r := range rules {
		if r.Prefix.IsValid() && r.Prefix.Bits() >= cardRange.Bits() && r.Prefix.Overlaps(network) {
			return true
		}
	}
	return false
}

// config is the part of the machine; nil for none.
func (n *network) config() *vmm.Network {
	if n == nil {
		return nil
	}
	c := &vmm.Network{Allow: n.rules, Interface: n.card, Denied: n.denied, Dial: n.outside.dial, Resolve: n.outside.resolve}
	if n.through != nil {
		c.Dial, c.KeepFromHost = n.through.Dial, true
	}
	return c
}

// addresses are what the guest is told.
func (n *network) addresses() agentproto.Network {
	if n == nil {
		return agentproto.Network{}
	}
	return agentproto.Network(n.card)
}

func (n *network) denied(f vmm.Flow) {
	entry := sandbox.RefusedFlow{Protocol: f.Protocol, Name: f.Name, Count: f.Count}
	if f.Protocol != "dns" {
		entry.Address = f.To.String()
	}
	n.refused.add(entry, time.Now())
}

// EgressLog is sandbox.EgressLogger's.
func (s *Sandbox) EgressLog(context.Context) (sandbox.EgressLog, error) {
	if err := s.Ended("egress log"); err != nil {
		return sandbox.EgressLog{}, err
	}
	return s.network.log(), nil
}

func (n *network) log() sandbox.EgressLog {
	if n == nil {
		return sandbox.EgressLog{}
	}
	log := n.refused.log()
	if c, ok := n.through.(sandbox.CredentialLogger); ok {
		log.Credentials, log.CredentialsOmitted = c.CredentialLog()
	}
	return log
}
