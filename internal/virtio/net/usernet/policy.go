package usernet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/egress"
)

// Protocols of flows.
const (
	TCP = "tcp"
	UDP = "udp"
)

// Rule allows flows to addresses or names, which is one of both, and ports.
type Rule struct {
	// Prefix is a network, IPv4.
	Prefix netip.Prefix
	// Name is a domain name, or "*." and one: all names below it, but not itself; or "*": all names.
	Name string
	// FirstPort and LastPort are the range of ports; both 0 stand for all ports.
	FirstPort, LastPort uint16
	// Protocol is TCP, UDP, or empty for both.
	Protocol string
}

// ErrRule is wrapped by errors about rules that mean nothing.
var ErrRule = errors.New("usernet: invalid rule")

// policy decides about flows.
type policy struct {
	rules   []Rule
	special []netip.Prefix
	local   func(netip.Addr) bool // tells the host's own addresses; nil where there are none
	now     func() time.Time

	mu         sync.Mutex
	nextForget time.Time
	names      map[netip.Addr]map[string]time.Time // addresses of allowed names, until when
}

const (
	// nameLifetime is how long the address of a name can be connected to after it was resolved.
	nameLifetime   = 10 * time.Minute
	forgetInterval = 10 * time.Second
	// maxNames bounds the addresses that are remembered.
	maxNames = 4096
)

func newPolicy(rules []Rule) (*policy, error) {
	p := &policy{special: egress.Special(), now: time.Now, names: map[netip.Addr]map[string]time.Time{}}
	for _, r := range rules {
		r.Name = canonical(r.Name)
		switch {
		case r.Prefix.IsValid() == (r.Name != ""):
			return nil, fmt.Errorf("%w: %+v has not one of prefix and name", ErrRule, r)
		case r.Prefix.IsValid() && !r.Prefix.Addr().Is4():
			return nil, fmt.Errorf("%w: %v is not an IPv4 network", ErrRule, r.Prefix)
		case r.Name != "" && r.Name != "*" && !isHostName(strings.TrimPrefix(r.Name, "*.")):
			return nil, fmt.Errorf("%w: name %q", ErrRule, r.Name)
		case r.FirstPort > r.LastPort:
			return nil, fmt.Errorf("%w: ports %d to %d", ErrRule, r.FirstPort, r.LastPort)
		case r.Protocol != "" && r.Protocol != TCP && r.Protocol != UDP:
			return nil, fmt.Errorf("%w: protocol %q", ErrRule, r.Protocol)
		}
		p.rules = append(p.rules, r)
	}
	return p, nil
}

// canonical makes names comparable.
func canonical(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// isHostName tells whether a canonical name has the form of a host's, other than that of an address.
// Others are not asked for: who looks them up may take them for something else than a name.
func isHostName(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if len(name) > 253 || strings.Trim(last, "0123456789") == "" {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// allows tells whether a flow may be opened.
func (p *policy) allows(protocol string, to netip.AddrPort) bool {
	matched := false
	for _, r := range p.rules {
		if (r.Protocol != "" && r.Protocol != protocol) || !r.hasPort(to.Port()) {
			continue
		}
		if r.Name == "" && p.covers(r.Prefix, to.Addr()) {
			if r.Prefix.IsSingleIP() {
				return true
			}
			matched = true
		}
		matched = matched || r.Name != "" && p.knows(to.Addr(), r)
	}
	return matched && !p.isLocal(to.Addr())
}

// isLocal tells whether an address is the host's own: only a rule for nothing else reaches it.
func (p *policy) isLocal(addr netip.Addr) bool { return p.local != nil && p.local(addr) }

func (r Rule) hasPort(port uint16) bool {
	return r.LastPort == 0 || r.FirstPort <= port && port <= r.LastPort
}

func (r Rule) hasName(name string) bool {
	if below, ok := strings.CutPrefix(r.Name, "*"); ok {
		return len(name) > len(below) && strings.HasSuffix(name, below)
	}
	return name == r.Name
}

// covers tells whether a network has an address, and is special if the address is.
func (p *policy) covers(network netip.Prefix, addr netip.Addr) bool {
	if !network.Contains(addr) {
		return false
	}
	s := p.specialOf(addr)
	return !s.IsValid() || network.Bits() >= s.Bits()
}

// specialOf returns the special network that has an address, or none.
func (p *policy) specialOf(addr netip.Addr) netip.Prefix {
	for _, s := range p.special {
		if s.Contains(addr) {
			return s
		}
	}
	return netip.Prefix{}
}

// allowsName tells whether a rule is about a name.
func (p *policy) allowsName(name string) bool {
	name = canonical(name)
	if !isHostName(name) {
		return false
	}
	for _, r := range p.rules {
		if r.Name != "" && r.hasName(name) {
			return true
		}
	}
	return false
}

// allowsAddress tells whether a rule about addresses reaches an address, on some port.
func (p *policy) allowsAddress(addr netip.Addr) bool {
	for _, r := range p.rules {
		if r.Name == "" && p.covers(r.Prefix, addr) && (r.Prefix.IsSingleIP() || !p.isLocal(addr)) {
			return true
		}
	}
	return false
}

// resolved remembers the addresses of an allowed name, and returns those that may be used. The name of a
// special address, or one of the host's own, gives no access to it, whoever is in charge of the name; it
// is answered if a rule about addresses gives that.
func (p *policy) resolved(name string, addrs []netip.Addr) (usable []netip.Addr) {
	name = canonical(name)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget()
	for _, a := range addrs {
		a = a.Unmap()
		if !a.Is4() {
			continue
		}
		if p.specialOf(a).IsValid() || p.isLocal(a) {
			if p.allowsAddress(a) {
				usable = append(usable, a)
			}
			continue
		}
		names := p.names[a]
		if names == nil {
			if len(p.names) >= maxNames {
				continue
			}
			names = map[string]time.Time{}
			p.names[a] = names
		}
		if _, known := names[name]; !known && len(names) >= maxNames/64 {
			continue
		}
		names[name] = p.now().Add(nameLifetime)
		usable = append(usable, a)
	}
	return usable
}

// forget drops what has expired, now and then: it looks at everything. The caller holds p.mu.
func (p *policy) forget() {
	now := p.now()
	if now.Before(p.nextForget) {
		return
	}
	p.nextForget = now.Add(forgetInterval)
	for a, names := range p.names {
		for name, until := range names {
			if now.After(until) {
				delete(names, name)
			}
		}
		if len(names) == 0 {
			delete(p.names, a)
		}
	}
}

// knows tells whether an address belongs to a name that a rule is about.
func (p *policy) knows(addr netip.Addr, r Rule) bool {
	if p.specialOf(addr).IsValid() { // none is remembered
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, until := range p.names[addr] {
		if r.hasName(name) && !p.now().After(until) {
			return true
		}
	}
	return false
}
