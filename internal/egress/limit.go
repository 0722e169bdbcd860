package egress

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

// Limit bounds the rules that those who ask for sandboxes may name. Its methods may be called concurrently.
type Limit struct {
	rules []sandbox.EgressRule
	texts []string
	local func(netip.Addr) bool
}

// NewLimit returns a limit by the operator's own rules: each rule that is asked for must lie within one of them.
// Without any it is "*", every name and every public address. They may name private networks, and then those can
// be asked for; what [Never] has is refused.
func NewLimit(texts ...string) (*Limit, error) {
	if len(texts) == 0 {
		texts = []string{sandbox.EveryName}
	}
	l := &Limit{texts: texts, local: IsLocal}
	for _, text := range texts {
		r, err := sandbox.ParseEgressRule(text)
		if err != nil {
			return nil, err
		}
		if n := l.never(r); n.IsValid() {
			return nil, &sandbox.Error{Op: "check", Err: sandbox.ErrInvalid, Detail: fmt.Sprintf("%s is in %s, which no sandbox of others may reach", text, n), Remedy: "leave it out"}
		}
		l.rules = append(l.rules, r)
	}
	return l, nil
}

// Texts are the limit's rules.
func (l *Limit) Texts() []string { return l.texts }

// Check says why a rule may not be asked for; nil if it may.
func (l *Limit) Check(r sandbox.EgressRule) error {
	if n := l.never(r); n.IsValid() {
		return fmt.Errorf("%s is in %s, which is never reached", r, n)
	}
	own := r.Prefix.IsValid() && r.Prefix.IsSingleIP() && l.local(r.Prefix.Addr())
	for _, o := range l.rules {
		if covers(o, r) && (!own || o.Prefix == r.Prefix) {
			return nil
		}
	}
	switch {
	case own:
		return fmt.Errorf("%s is an address of this host", r)
	case r.Prefix.IsValid() && first(r.Prefix, Special()).IsValid():
		return fmt.Errorf("%s is in a private network", r)
	}
	return fmt.Errorf("%s is more than %s", r, strings.Join(l.texts, ", "))
}

func (l *Limit) never(r sandbox.EgressRule) netip.Prefix {
	if !r.Prefix.IsValid() {
		return netip.Prefix{}
	}
	return first(r.Prefix, Never())
}

// covers tells whether all that r allows is allowed by o.
func covers(o, r sandbox.EgressRule) bool {
	if o.Protocol != "" && o.Protocol != r.Protocol {
		return false
	}
	if o.LastPort != 0 && (r.LastPort == 0 || r.FirstPort < o.FirstPort || r.LastPort > o.LastPort) {
		return false
	}
	switch {
	case r.Name != "":
		return o.Name != "" && coversName(o.Name, r.Name)
	case o.Name == sandbox.EveryName:
		return !first(r.Prefix, Special()).IsValid()
	case o.Name != "" || !within(r.Prefix, o.Prefix):
		return false
	}
	// A network that is not public is reached only by a rule for it, or a part of it.
	s := first(r.Prefix, Special())
	return !s.IsValid() || within(o.Prefix, s)
}

func coversName(o, r string) bool {
	below, wild := strings.CutPrefix(o, "*")
	switch {
	case o == r || o == sandbox.EveryName:
		return true
	case r == sandbox.EveryName || !wild:
		return false
	}
	// below begins with its dot; "*.b.c" is within "*.c", and within itself.
	return strings.HasSuffix(strings.TrimPrefix(r, "*"), below) && len(strings.TrimPrefix(r, "*")) > len(below)
}
