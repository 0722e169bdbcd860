package inside

import (
	"fmt"
	"os"
	"strings"

	"github.com/aethervm/aether/internal/probe/caps"
	"github.com/aethervm/aether/internal/probe/finding"
)

func privilegeProbes() []entry {
	probes := []entry{
		{finding.Probe{Name: "privileges.user", Scope: finding.ScopeKernel,
			Question: "Is the guest's root also root of the kernel's first user namespace (uid_map)?",
			Better:   "No: outside the sandbox it is nobody.",
			Worse:    "Yes: what it gets hold of outside, it owns."}, user},
		{finding.Probe{Name: "privileges.no-new-privs", Scope: finding.ScopeKernel,
			Question: "Is no_new_privs set?",
			Better:   "Yes: set-user-ID programs and file capabilities give nothing.",
			Worse:    "No."}, statusIs("NoNewPrivs", "1")},
		{finding.Probe{Name: "privileges.seccomp", Scope: finding.ScopeKernel,
			Question: "Is a seccomp filter in force?",
			Better:   "Yes: it bounds which system calls there are.",
			Worse:    "No."}, statusIs("Seccomp", "1", "2")},
	}
	for _, set := range []struct{ name, field, what string }{
		{"effective", "CapEff", "in force"},
		{"bounding", "CapBnd", "that a program may still gain"},
		{"ambient", "CapAmb", "handed on to every program"},
	} {
		probes = append(probes, entry{finding.Probe{Name: "privileges.capabilities-" + set.name, Scope: finding.ScopeKernel,
			Question: "Which capabilities " + set.what + " reach beyond the guest's own files and processes?",
			Better:   "None (allowed: " + strings.Join(caps.Harmless.Names(), ", ") + ").",
			Worse:    "Any: each is a part of the host root's power."}, capabilities(set.field)})
	}
	return probes
}

// statusField reads a line of /proc/self/status.
func statusField(key string) (string, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(rest), nil
		}
	}
	return "", fmt.Errorf("/proc/self/status has no %s", key)
}

func user() answer {
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return unknown(err)
	}
	uid := os.Geteuid()
	fields := strings.Fields(string(text))
	detail := fmt.Sprintf("uid_map: %s; running as %d", strings.Join(fields, " "), uid)
	if len(fields) >= 3 && fields[0] == "0" && fields[1] == "0" {
		return answer{value: "root is root outside", verdict: finding.Worse, detail: detail}
	}
	return answer{value: "root is not root outside", verdict: finding.Better, detail: detail}
}

func statusIs(key string, good ...string) func() answer {
	return func() answer {
		value, err := statusField(key)
		if err != nil {
			return unknown(err)
		}
		for _, g := range good {
			if value == g {
				return answer{value: "yes", verdict: finding.Better, detail: key + " is " + value}
			}
		}
		return answer{value: "no", verdict: finding.Worse, detail: key + " is " + value}
	}
}

func capabilities(field string) func() answer {
	return func() answer {
		value, err := statusField(field)
		if err != nil {
			return unknown(err)
		}
		set, err := caps.Parse(value)
		if err != nil {
			return unknown(err)
		}
		a := listed((set &^ caps.Harmless).Names(), "held")
		a.detail = field + " is " + value
		return a
	}
}
