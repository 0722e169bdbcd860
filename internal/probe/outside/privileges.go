package outside

import (
	"fmt"
	"strings"

	"github.com/aethervm/aether/internal/probe/caps"
	"github.com/aethervm/aether/internal/probe/finding"
)

func privilegeProbes() []entry {
	return []entry{
		{finding.Probe{Name: "process.user", Scope: finding.ScopeHost,
			Question: "As which user of the host does it run?",
			Better:   "Any but root.",
			Worse:    "Root, user 0: every file of the host is its own."}, user},
		{finding.Probe{Name: "process.capabilities-effective", Scope: finding.ScopeHost,
			Question: "Which capabilities does it have?",
			Better:   "None that reach beyond its own files and processes, or they count in a user namespace of its own only.",
			Worse:    "Any other."}, capabilities("CapEff")},
		{finding.Probe{Name: "process.capabilities-bounding", Scope: finding.ScopeHost,
			Question: "Which capabilities could it still gain, through a set-user-ID program?",
			Better:   "None that reach beyond its own files and processes, or they count in a user namespace of its own only.",
			Worse:    "Any other."}, capabilities("CapBnd")},
		{finding.Probe{Name: "process.no-new-privs", Scope: finding.ScopeHost,
			Question: "Is no_new_privs set?",
			Better:   "Yes: it can never gain privileges by running a program.",
			Worse:    "No."}, noNewPrivs},
		{finding.Probe{Name: "process.seccomp", Scope: finding.ScopeHost,
			Question: "Does a seccomp filter bound the system calls that it can make of the host's kernel?",
			Better:   "Yes.",
			Worse:    "No: all of the host's kernel is open to it."}, seccomp},
		{finding.Probe{Name: "process.landlock", Scope: finding.ScopeHost,
			Question: "Does Landlock bound the files that it can open?",
			Better:   "Yes.",
			Worse:    "No. The kernel does not show this from outside, so it is unknown for every system."},
			func(*process) (answer, error) {
				return unknown("the kernel does not show a process's Landlock domain"), nil
			}},
	}
}

func user(p *process) (answer, error) {
	value, err := p.field("Uid")
	if err != nil {
		return answer{}, err
	}
	// Real, effective, saved and file system user.
	for _, uid := range strings.Fields(value) {
		if uid == "0" {
			return worse("root", "Uid: "+strings.Join(strings.Fields(value), " ")), nil
		}
	}
	return better("user "+strings.Fields(value + " ?")[0], ""), nil
}

func capabilities(field string) func(*process) (answer, error) {
	return func(p *process) (answer, error) {
		value, err := p.field(field)
		if err != nil {
			return answer{}, err
		}
		set, err := caps.Parse(value)
		if err != nil {
			return answer{}, err
		}
		names := (set &^ caps.Harmless).Names()
		if len(names) == 0 {
			return better("none", field+" is "+value), nil
		}
		differs, err := p.otherNamespace("user")
		if err != nil {
			return answer{}, err
		}
		if differs {
			return answer{fmt.Sprintf("%d in its own user namespace", len(names)), finding.Better, field + " is " + value, names}, nil
		}
		return answer{fmt.Sprintf("%d held", len(names)), finding.Worse, field + " is " + value, names}, nil
	}
}

func noNewPrivs(p *process) (answer, error) {
	value, err := p.field("NoNewPrivs")
	switch {
	case err != nil:
		return answer{}, err
	case value == "1":
		return better("set", ""), nil
	}
	return worse("not set", ""), nil
}

func seccomp(p *process) (answer, error) {
	value, err := p.field("Seccomp")
	if err != nil {
		return answer{}, err
	}
	switch value {
	case "2":
		return better("filter", p.status["Seccomp_filters"]+" filters"), nil
	case "1":
		return better("strict", ""), nil
	case "0":
		return worse("none", ""), nil
	}
	return unknown("Seccomp is " + value), nil
}
