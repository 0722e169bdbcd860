package probe

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/aethervm/aether/internal/host"
	"github.com/aethervm/aether/internal/probe/finding"
	"github.com/aethervm/aether/internal/probe/inside"
	"github.com/aethervm/aether/internal/probe/outside"
)

var facts = host.Facts{BootID: "b1", BootTime: 1000, Kernel: host.Kernel{Release: "6.1", Version: "#1"}}

func kernelItems(bootID, release, version string, booted int) []string {
	var items []string
	for _, kv := range [][2]string{{inside.IdentityBootID, bootID}, {inside.IdentityRelease, release}, {inside.IdentityVersion, version}} {
		if kv[1] != "" {
			items = append(items, kv[0]+"="+kv[1])
		}
	}
	if booted != 0 {
		items = append(items, fmt.Sprintf("%s=%d", inside.IdentityBooted, booted))
	}
	return items
}

func TestJudgeKernel(t *testing.T) {
	for _, tt := range []struct {
		name  string
		items []string
		want  finding.Verdict
	}{
		{"container", kernelItems("b1", "6.1", "#1", 1001), finding.Worse},
		{"container in a time namespace", kernelItems("b1", "6.1", "#1", 77), finding.Worse},
		{"container without boot ID", kernelItems("", "6.1", "#1", 1000), finding.Worse},
		{"virtual machine", kernelItems("b2", "6.12", "#9", 5000), finding.Better},
		{"virtual machine with the host's kernel", kernelItems("b2", "6.1", "#1", 5000), finding.Better},
		{"user-space kernel", kernelItems("", "4.4.0", "#1 SMP", 0), finding.Better},
		{"masked boot ID", kernelItems("b2", "6.1", "#1", 1000), finding.Unknown},
		{"same version, nothing else", kernelItems("", "6.1", "#1", 0), finding.Unknown},
		{"same version, other boot time", kernelItems("", "6.1", "#1", 5000), finding.Unknown},
		{"nothing", nil, finding.Unknown},
		{"nonsense", []string{"boot_id", "=", "boot_time=x", "version=#1"}, finding.Unknown},
	} {
		got := judgeKernel(finding.Finding{Name: inside.Identity, Verdict: finding.Better, Items: tt.items}, facts)
		if got.Verdict != tt.want || got.Detail == "" {
			t.Errorf("%s: %s (%s), want %s", tt.name, got.Verdict, got.Detail, tt.want)
		}
	}
	if got := judgeKernel(finding.Finding{Items: kernelItems("b2", "6.1", "#1", 1)}, host.Facts{}); got.Verdict != finding.Unknown {
		t.Errorf("with a host of which nothing is known: %+v", got)
	}
}

// all makes a finding with the verdict for every probe.
func all(probes []finding.Probe, v finding.Verdict, identity []string) []finding.Finding {
	var list []finding.Finding
	for _, p := range probes {
		f := finding.Finding{Name: p.Name, Verdict: v}
		if p.Name == inside.Identity {
			f.Verdict, f.Items = finding.Unknown, identity
		} else if v == finding.Worse {
			f.Items = []string{"a", "b"}
		}
		list = append(list, f)
	}
	return list
}

func TestEvaluateSharedKernel(t *testing.T) {
	r := Evaluate(all(inside.Probes(), finding.Worse, kernelItems("b1", "6.1", "#1", 1000)), all(outside.Probes(), finding.Worse, nil), facts, "runc")
	families := 0
	for _, p := range inside.Probes() {
		if len(p.Name) > len(inside.SyscallPrefix) && p.Name[:len(inside.SyscallPrefix)] == inside.SyscallPrefix {
			families++
		}
	}
	want := Metrics{
		"isolation.inside_ratio": 0, "isolation.outside_ratio": 0, "isolation.unknown_count": 0, "isolation.hardware_boundary_ratio": 0,
		"isolation.separate_kernel_ratio": 0, "isolation.syscalls_count": float64(2 * families),
	}
	if !maps.Equal(r.Metrics, want) {
		t.Errorf("%v\nwant %v", r.Metrics, want)
	}
}

func TestEvaluateOwnKernel(t *testing.T) {
	r := Evaluate(all(inside.Probes(), finding.Worse, kernelItems("b2", "6.12", "#9", 9)), all(outside.Probes(), finding.Better, nil), facts, "kvm")
	for i, p := range inside.Probes() {
		want := finding.Better
		if p.Scope == finding.ScopeSandbox { // a network or a file of the host is worse in a machine too
			want = finding.Worse
		}
		if f := r.Inside[i]; f.Name != p.Name || f.Verdict != want {
			t.Errorf("%+v, want %s", f, want)
		}
	}
	m := r.Metrics
	if m["isolation.separate_kernel_ratio"] != 1 || m["isolation.syscalls_count"] != 0 || m["isolation.hardware_boundary_ratio"] != 1 || m["isolation.outside_ratio"] != 1 {
		t.Errorf("%v", m)
	}
	if x := m["isolation.inside_ratio"]; x <= 0.5 || x >= 1 {
		t.Errorf("inside %v", x)
	}
}

func TestEvaluateUnknownIsNotGood(t *testing.T) {
	r := Evaluate(nil, nil, facts, "")
	if got := r.Metrics["isolation.unknown_count"]; int(got) != len(inside.Probes())+len(outside.Probes()) {
		t.Errorf("%v unknown", got)
	}
	for _, name := range []string{"isolation.separate_kernel_ratio", "isolation.syscalls_count"} {
		if v, ok := r.Metrics[name]; ok {
			t.Errorf("%s is %v, though nothing is known", name, v)
		}
	}
	if r.Metrics["isolation.inside_ratio"] != 0 || r.Metrics["isolation.outside_ratio"] != 0 {
		t.Errorf("%v", r.Metrics)
	}
	// With the host's kernel, a family that was not asked makes the count unknown.
	in := all(inside.Probes(), finding.Worse, kernelItems("b1", "6.1", "#1", 1000))
	in = slices.DeleteFunc(in, func(f finding.Finding) bool { return f.Name == inside.SyscallPrefix+"keys" })
	if v, ok := Evaluate(in, nil, facts, "runc").Metrics["isolation.syscalls_count"]; ok {
		t.Errorf("syscalls_count is %v with a family missing", v)
	}
}

func TestEvaluateIgnoresInventions(t *testing.T) {
	var in []finding.Finding
	for i := range 100 {
		in = append(in, finding.Finding{Name: fmt.Sprintf("invented.%d", i), Verdict: finding.Better})
	}
	r := Evaluate(in, nil, facts, "runc")
	if len(r.Inside) != len(inside.Probes()) || r.Metrics["isolation.inside_ratio"] != 0 {
		t.Errorf("%d findings, %v", len(r.Inside), r.Metrics)
	}
	// A claim of a verdict on the kernel is not believed either.
	in = []finding.Finding{{Name: inside.Identity, Verdict: finding.Better}}
	if r := Evaluate(in, nil, facts, "runc"); r.Inside[0].Verdict != finding.Unknown {
		t.Errorf("%+v", r.Inside[0])
	}
}

func TestCatalogue(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range Catalogue() {
		if seen[p.Name] || p.Question == "" || p.Better == "" || p.Worse == "" {
			t.Errorf("%+v", p)
		}
		seen[p.Name] = true
	}
}
