// Package probe judges how well a sandbox isolates: it has a program look from inside (package
// inside), looks itself from outside (package outside), compares both with what the host is, and
// sets off bombs in one sandbox to see whether its neighbour notices.
//
// docs/checklists/probe.md says how to add a probe.
package probe

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/aethervm/aether/internal/host"
	"github.com/aethervm/aether/internal/probe/finding"
	"github.com/aethervm/aether/internal/probe/inside"
	"github.com/aethervm/aether/internal/probe/outside"
)

// Metrics are values by the names of docs/METRICS.md. What could not be had is absent.
type Metrics map[string]float64

// Report is what the probes say about a system.
type Report struct {
	Inside  []finding.Finding `json:"inside"`
	Outside []finding.Finding `json:"outside"`
	Metrics Metrics           `json:"metrics"`
}

// Catalogue documents every probe, in the order of the reports.
func Catalogue() []finding.Probe {
	return slices.Concat(inside.Probes(), outside.Probes(), bombProbes())
}

// Evaluate judges what was found inside and outside a sandbox of this host. accelerator is
// sandbox.Info's. Findings that are no probe's are dropped, and a probe without a finding is
// unknown, so that a sandbox cannot improve its score by what it says or leaves out.
func Evaluate(in, out []finding.Finding, facts host.Facts, accelerator string) Report {
	r := Report{Metrics: Metrics{}}
	kernel := judgeKernel(lookUp(in, inside.Identity), facts)
	own := kernel.Verdict == finding.Better
	reached := 0
	for _, p := range inside.Probes() {
		f := lookUp(in, p.Name)
		switch {
		case p.Name == inside.Identity:
			f = kernel
		case strings.HasPrefix(p.Name, inside.SyscallPrefix):
			reached += len(f.Items)
		}
		if own && p.Scope == finding.ScopeKernel && f.Verdict == finding.Worse {
			// Power over a kernel that serves this sandbox alone.
			f.Verdict = finding.Better
			f.Detail = strings.TrimSuffix("in a kernel of its own; "+f.Detail, "; ")
		}
		r.Inside = append(r.Inside, f)
	}
	for _, p := range outside.Probes() {
		r.Outside = append(r.Outside, lookUp(out, p.Name))
	}

	r.Metrics["isolation.inside_ratio"] = ratio(r.Inside)
	r.Metrics["isolation.outside_ratio"] = ratio(r.Outside)
	r.Metrics["isolation.unknown_count"] = float64(count(r.Inside, finding.Unknown) + count(r.Outside, finding.Unknown))
	r.Metrics["isolation.hardware_boundary_ratio"] = boundary(accelerator)
	switch kernel.Verdict {
	case finding.Better:
		r.Metrics["isolation.separate_kernel_ratio"] = 1
		r.Metrics["isolation.syscalls_count"] = 0
	case finding.Worse:
		r.Metrics["isolation.separate_kernel_ratio"] = 0
		r.Metrics["isolation.syscalls_count"] = float64(reached)
		if unanswered(r.Inside) {
			delete(r.Metrics, "isolation.syscalls_count")
		}
	}
	return r
}

func lookUp(list []finding.Finding, name string) finding.Finding {
	for _, f := range list {
		if f.Name == name {
			return f
		}
	}
	return finding.Finding{Name: name, Value: "unknown", Verdict: finding.Unknown, Detail: "not answered"}
}

// unanswered tells whether a probe of system calls has no answer, so that their count is not known.
func unanswered(list []finding.Finding) bool {
	return slices.ContainsFunc(list, func(f finding.Finding) bool {
		return strings.HasPrefix(f.Name, inside.SyscallPrefix) && f.Verdict == finding.Unknown
	})
}

func count(list []finding.Finding, v finding.Verdict) int {
	n := 0
	for _, f := range list {
		if f.Verdict == v {
			n++
		}
	}
	return n
}

// ratio is the share of better answers; unknown is not better.
func ratio(list []finding.Finding) float64 {
	return float64(count(list, finding.Better)) / float64(len(list))
}

// boundary is what lies between guest code and the host's processor.
func boundary(accelerator string) float64 {
	switch accelerator {
	case "kvm":
		return 1
	case "tcg":
		return 0.5
	}
	return 0
}

// bootSlack is how far two readings of one kernel's boot time may differ: it is computed from two
// clocks each time.
const bootSlack = 2 // seconds

// judgeKernel compares the kernel seen inside with the host's. The boot ID decides, being random at
// every boot; where it cannot be read, the version does. Evidence that contradicts itself (a boot
// ID hidden by a mount, say) proves nothing.
func judgeKernel(f finding.Finding, facts host.Facts) finding.Finding {
	seen := map[string]string{}
	for _, item := range f.Items {
		if key, value, ok := strings.Cut(item, "="); ok {
			seen[key] = value
		}
	}
	judged := func(v finding.Verdict, why string) finding.Finding {
		f.Verdict, f.Detail = v, why
		return f
	}
	sameBoot := compare(seen[inside.IdentityBootID], facts.BootID)
	sameVersion := compare(seen[inside.IdentityRelease]+" "+seen[inside.IdentityVersion], facts.Kernel.Release+" "+facts.Kernel.Version)
	if seen[inside.IdentityRelease] == "" || facts.Kernel.Release == "" {
		sameVersion = unsure
	}
	sameTime := unsure
	if t, err := strconv.ParseInt(seen[inside.IdentityBooted], 10, 64); err == nil && facts.BootTime != 0 {
		if sameTime = differs; t-facts.BootTime <= bootSlack && facts.BootTime-t <= bootSlack {
			sameTime = same
		}
	}
	evidence := fmt.Sprintf("boot ID %s, version %s, boot time %s", sameBoot, sameVersion, sameTime)
	switch {
	case sameBoot == same:
		return judged(finding.Worse, "the host's kernel: "+evidence)
	case sameBoot == differs && sameVersion == same && sameTime == same:
		return judged(finding.Unknown, "contradictory: "+evidence)
	case sameBoot == differs, sameVersion == differs:
		return judged(finding.Better, "not the host's kernel: "+evidence)
	case sameVersion == same && sameTime == same:
		return judged(finding.Worse, "the host's kernel: "+evidence)
	}
	return judged(finding.Unknown, "not enough to tell: "+evidence)
}

// likeness is the outcome of comparing two readings.
type likeness string

const (
	same    likeness = "the same"
	differs likeness = "differs"
	unsure  likeness = "unknown"
)

func compare(a, b string) likeness {
	switch {
	case strings.TrimSpace(a) == "" || strings.TrimSpace(b) == "":
		return unsure
	case a == b:
		return same
	}
	return differs
}
