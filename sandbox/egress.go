package sandbox

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// MaxEgressRules bounds the rules of one Spec.
const MaxEgressRules = 128

// EgressRule allows a sandbox flows to a network or a name, and to ports. Rules only ever allow: what
// none of them names is refused.
//
// Its text is [PROTOCOL://]HOST[:PORT[-PORT]]:
//
//	pypi.org                this name, on any port
//	*.debian.org:443        all names below debian.org, not itself, on port 443
//	10.1.2.0/24:8000-8100   a network
//	udp://192.0.2.7:123     one address, over UDP only
//	*:443                   every name and every public address
//
// A name is what the sandbox may look up; what it resolves to may then be connected to for some minutes.
// A network or address says nothing about names. Private networks, link-local ones (where clouds have
// their metadata) and the like are not public: they are reached only by a rule for such a network, or a
// part of it, and an address of this host itself only by a rule for exactly that address. A name that
// resolves to any of these gives no access to it.
type EgressRule struct {
	// Protocol is "tcp", "udp", or empty for both.
	Protocol string
	// Prefix is a network, IPv4, without bits beyond its length. It is zero if Name is set.
	Prefix netip.Prefix
	// Name is a domain name in lower case, "*." and one, or "*".
	Name string
	// FirstPort and LastPort are the range of ports; both 0 stand for all.
	FirstPort, LastPort uint16
}

// EveryName is the Name of a rule for every name and every public address.
const EveryName = "*"

// maxName is that of the domain name system, in bytes.
const maxName = 253

// ParseEgressRule parses the text of a rule. The error wraps ErrInvalid and says what to write instead.
func ParseEgressRule(text string) (EgressRule, error) {
	bad := func(why, remedy string) (EgressRule, error) {
		if len(text) > maxName+64 {
			text = text[:maxName] + "..."
		}
		return EgressRule{}, &Error{Op: "check", Err: ErrInvalid, Detail: fmt.Sprintf("egress rule %q: %s", text, why), Remedy: remedy}
	}
	var r EgressRule
	host := text
	if protocol, rest, ok := strings.Cut(text, "://"); ok {
		switch host, r.Protocol = rest, strings.ToLower(protocol); r.Protocol {
		case "tcp", "udp":
		case "http", "https":
			return bad("a rule is not a URL", `name the host and the port, as in "pypi.org:443"`)
		default:
			return bad("unknown protocol", `the protocols are "tcp://" and "udp://"; without one it is both`)
		}
	}
	if strings.ContainsAny(host, "[]") || strings.Count(host, ":") > 1 {
		return bad("it has more than one colon", "write HOST:PORT; IPv6 is not there, sandboxes have IPv4 only")
	}
	host, ports, hasPorts := strings.Cut(host, ":")
	switch {
	case hasPorts && ports == "":
		return bad("no port follows the colon", "leave out the colon to allow all ports")
	case hasPorts:
		first, last, isRange := strings.Cut(ports, "-")
		if !isRange {
			last = first
		}
		var ok1, ok2 bool
		r.FirstPort, ok1 = parsePort(first)
		r.LastPort, ok2 = parsePort(last)
		if !ok1 || !ok2 || r.FirstPort > r.LastPort {
			return bad(fmt.Sprintf("%q is no port and no range of ports", ports), `write a port from 1 to 65535, or a range such as "8000-8100"`)
		}
	}
	why, remedy := r.setHost(host)
	if why != "" {
		return bad(why, remedy)
	}
	return r, nil
}

func parsePort(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n > 0 && text[0] >= '1'
}

// setHost sets what the rule is about. It returns what is wrong with it, or "".
func (r *EgressRule) setHost(host string) (why, remedy string) {
	if address, _, ok := strings.Cut(host, "/"); ok {
		prefix, err := netip.ParsePrefix(host)
		switch {
		case err != nil && !numeric(address):
			return "a rule has no path", "name the host only"
		case err != nil || !prefix.Addr().Is4():
			return fmt.Sprintf("%q is no IPv4 network", host), `write one as in "10.1.2.0/24"`
		case prefix != prefix.Masked():
			return fmt.Sprintf("%s has bits beyond the first %d", prefix.Addr(), prefix.Bits()),
				fmt.Sprintf("write %q for the network, or %q for the one address", prefix.Masked(), prefix.Addr())
		}
		r.Prefix = prefix
		return unreachable(prefix)
	}
	if numeric(host) {
		addr, err := netip.ParseAddr(host)
		if err != nil {
			return fmt.Sprintf("%q is no IPv4 address", host), `write one as in "192.0.2.7"`
		}
		r.Prefix = netip.PrefixFrom(addr, addr.BitLen())
		return unreachable(r.Prefix)
	}
	r.Name = strings.ToLower(strings.TrimSuffix(host, "."))
	return checkName(r.Name)
}

// numeric tells whether a host is meant to be an address: no domain name ends in a number.
func numeric(host string) bool {
	last := strings.TrimSuffix(host, ".")
	last = last[strings.LastIndexByte(last, '.')+1:]
	return last != "" && (strings.Trim(last, "0123456789") == "" || strings.HasPrefix(strings.ToLower(last), "0x"))
}

// unreachable says why a network cannot be a rule's: what is sent there does not leave the sandbox, or
// goes to no single host. It returns "" for one that can.
func unreachable(p netip.Prefix) (why, remedy string) {
	within := func(network string) bool {
		n := netip.MustParsePrefix(network)
		return p.Bits() >= n.Bits() && n.Contains(p.Addr())
	}
	switch {
	case within("127.0.0.0/8"):
		return "127.0.0.0/8 is the sandbox's own loopback",
			"it needs no rule; to reach a service of this host, have it listen on the host's own address and name that"
	case within("0.0.0.0/8"):
		return "0.0.0.0/8 is no network that can be connected to", `write "*" for every name and every public address`
	case within("224.0.0.0/3"):
		return "multicast and reserved addresses cannot be connected to", "name the addresses of hosts"
	}
	return "", ""
}

// checkName says what is wrong with a name in lower case, or returns "".
func checkName(name string) (why, remedy string) {
	if name == EveryName {
		return "", ""
	}
	rest := strings.TrimPrefix(name, "*.")
	switch {
	case rest == "":
		return "it names no host", `write a name ("pypi.org", "*.debian.org"), an address or a network ("10.1.2.0/24")`
	case strings.Contains(rest, "*"):
		return `"*" stands for whole names`, `write it only at the beginning, as in "*.debian.org"`
	case rest == "localhost" || strings.HasSuffix(rest, ".localhost"):
		return "localhost is the sandbox itself", "it needs no rule"
	case len(name) > maxName:
		return fmt.Sprintf("a name has up to %d bytes", maxName), "name a host"
	}
	for label := range strings.SplitSeq(rest, ".") {
		for _, c := range label {
			if c >= 0x80 {
				return "a name is in ASCII", `write it as the name system has it, with labels as in "xn--bcher-kva.example"`
			}
		}
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return fmt.Sprintf("%q is no part of a domain name", label), "a part has 1 to 63 letters, digits and '-', and '-' neither first nor last"
		}
	}
	return "", ""
}

// String returns the rule's text.
func (r EgressRule) String() string {
	var b strings.Builder
	if r.Protocol != "" {
		b.WriteString(r.Protocol + "://")
	}
	switch {
	case r.Name != "":
		b.WriteString(r.Name)
	case r.Prefix.IsSingleIP():
		b.WriteString(r.Prefix.Addr().String())
	default:
		b.WriteString(r.Prefix.String())
	}
	switch {
	case r.LastPort == 0:
	case r.FirstPort == r.LastPort:
		fmt.Fprintf(&b, ":%d", r.FirstPort)
	default:
		fmt.Fprintf(&b, ":%d-%d", r.FirstPort, r.LastPort)
	}
	return b.String()
}

// EgressRules returns what the sandbox may reach, for drivers that hold it to rules: those of Egress, one
// for everything public if the network is outbound without rules, or none. The error wraps ErrInvalid.
func (s Spec) EgressRules() ([]EgressRule, error) {
	switch {
	case len(s.Egress) == 0 && s.Network == NetworkOutbound:
		return []EgressRule{{Name: EveryName}}, nil
	case len(s.Egress) > 0 && s.Network != NetworkOutbound:
		return nil, invalid("egress", fmt.Sprintf("%q", s.Egress[0]), `left out unless the network is "outbound"`)
	case len(s.Egress) > MaxEgressRules:
		return nil, invalid("egress", fmt.Sprintf("a list of %d rules", len(s.Egress)), fmt.Sprintf("at most %d; networks and names with \"*.\" take many in one", MaxEgressRules))
	}
	var rules []EgressRule
	for _, text := range s.Egress {
		r, err := ParseEgressRule(text)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// RefuseEgressRules returns an error that wraps ErrUnsupported if the spec has rules, or an Outside: for drivers of
// systems whose network is all or nothing.
func (s Spec) RefuseEgressRules(op, system string) error {
	if err := s.refuseOutside(op, system); err != nil {
		return err
	}
	if len(s.Egress) == 0 {
		return nil
	}
	return &Error{Op: op, System: system, Err: ErrUnsupported,
		Detail: "its network knows no rules about where to; it would allow more than " + s.Egress[0],
		Remedy: "use a system that keeps to rules (aethervm), or leave them out where everything may be reached"}
}
