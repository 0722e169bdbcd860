package vms_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aethervm/aether/vms"
)

func TestParse(t *testing.T) {
	want := map[vms.VM][]string{
		vms.AetherVM:        {"aethervm", "AetherVM", "aether", "hypermachine", "HyperMachine"},
		vms.Firecracker:     {"firecracker", "fc"},
		vms.CloudHypervisor: {"cloud-hypervisor", "cloudhv", "chv", "Cloud Hypervisor", "cloud_hypervisor", "cloudhypervisor"},
		vms.GVisor:          {"gvisor", "gVisor", "runsc"},
		vms.Kata:            {"kata", "kata-containers", "Kata Containers"},
		vms.QEMUKVM:         {"qemu-kvm", "qemu", "kvm", "QEMU/KVM", "qemu_kvm"},
		vms.Docker:          {"docker", "runc", "containers"},
	}
	if len(want) != len(vms.All()) {
		t.Fatalf("%d systems, want %d", len(vms.All()), len(want))
	}
	for i, vm := range vms.All() {
		if int(vm) != i+1 || !vm.Valid() {
			t.Errorf("%s is %d at place %d", vm, vm, i)
		}
		for _, name := range slices.Concat(want[vm], vm.Aliases(), []string{vm.DisplayName(), vm.Name()}) {
			for _, variant := range []string{
				name, strings.ToUpper(name), strings.ToLower(name), " " + name + "\n",
				strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", " "),
			} {
				if got, err := vms.Parse(variant); err != nil || got != vm {
					t.Errorf("Parse(%q) = %v, %v; want %v", variant, got, err, vm)
				}
			}
		}
	}
}

func TestParseUnknown(t *testing.T) {
	tests := []struct{ name, suggestion string }{
		{"dokcer", "docker"},
		{"docke", "docker"},
		{"firecraker", "firecracker"},
		{"cloud-hypervizor", "cloud-hypervisor"},
		{"gvizor", "gvisor"},
		{"katta", "kata"},
		{"qemuu", "qemu-kvm"},
		{"rnsc", "gvisor"},
		{"aethervmm", "aethervm"},
		{"hyper machines", "aethervm"},
		{strings.Repeat("docker", 1<<16), ""},
		{"", ""},
		{"\xff\xfe", ""},
	}
	for _, tt := range tests {
		vm, err := vms.Parse(tt.name)
		var unknown *vms.UnknownNameError
		if !errors.As(err, &unknown) {
			t.Fatalf("Parse(%.20q) = %v, %v", tt.name, vm, err)
		}
		if vm.Valid() {
			t.Errorf("Parse(%.20q): %v along with an error", tt.name, vm)
		}
		if tt.suggestion != "" && unknown.Suggestion != tt.suggestion {
			t.Errorf("Parse(%q) suggests %q, want %q", tt.name, unknown.Suggestion, tt.suggestion)
		}
		if _, err := vms.Parse(unknown.Suggestion); err != nil {
			t.Errorf("the suggestion itself: %v", err)
		}
		if len(err.Error()) > 500 || !strings.Contains(err.Error(), unknown.Suggestion) {
			t.Errorf("error text: %v", err)
		}
	}
	if _, err := vms.ParseAxis("densty"); err == nil || !strings.Contains(err.Error(), `"density"`) {
		t.Errorf("ParseAxis: %v", err)
	}
	if _, err := vms.ParseWeights("multitenants"); err == nil || !strings.Contains(err.Error(), `"multi-tenant"`) {
		t.Errorf("ParseWeights: %v", err)
	}
}

func TestZeroValuesAreInvalid(t *testing.T) {
	var v struct {
		VM   vms.VM
		Axis vms.Axis
		Kind vms.Kind
	}
	for _, x := range []any{v.VM, v.Axis, v.Kind, vms.VM(99), vms.Axis(99), vms.Kind(99)} {
		if data, err := json.Marshal(x); err == nil {
			t.Errorf("%T(%v) marshals to %s", x, x, data)
		}
		if text := fmt.Sprint(x); !strings.Contains(text, "(") {
			t.Errorf("%T prints as %q", x, text)
		}
	}
	if p := vms.VM(0).Profile(); p.Fitness != 0 || len(p.Evidence) != 0 {
		t.Errorf("profile of no system: %v", p)
	}
}

func TestTextRoundTrip(t *testing.T) {
	for _, vm := range vms.All() {
		roundTrip(t, vm, new(vms.VM))
	}
	for _, a := range vms.Axes() {
		roundTrip(t, a, new(vms.Axis))
		if parsed, err := vms.ParseAxis(strings.ToUpper(a.String())); err != nil || parsed != a {
			t.Errorf("ParseAxis(%s) = %v, %v", a, parsed, err)
		}
	}
	for _, k := range []vms.Kind{vms.KindMeasured, vms.KindPublished, vms.KindJudged} {
		roundTrip(t, k, new(vms.Kind))
	}
	for _, w := range vms.AllWeights() {
		roundTrip(t, w, new(vms.Weights))
	}
	roundTrip(t, map[vms.VM]int{vms.Docker: 1, vms.QEMUKVM: 2}, new(map[vms.VM]int))
}

func roundTrip[T any](t *testing.T, value T, into *T) {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	if !reflect.DeepEqual(*into, value) {
		t.Errorf("%s came back as %v, was %v", data, *into, value)
	}
}

// TestRankJSON fixes the form that programs read.
func TestRankJSON(t *testing.T) {
	data, err := json.Marshal(vms.Rank(vms.Equal()))
	if err != nil {
		t.Fatal(err)
	}
	var entries []map[string]json.RawMessage
	if err := json.Unmarshal(data, &entries); err != nil {
		t.Fatal(err)
	}
	if len(entries) != 7 {
		t.Fatalf("%d entries", len(entries))
	}
	for _, entry := range entries {
		if got := keysInOrder(t, entry["axes"]); !slices.Equal(got, []string{
			"start-latency", "density", "isolation", "snapshotting", "agent-control",
		}) {
			t.Errorf("axes: %v", got)
		}
		var evidence []json.RawMessage
		if err := json.Unmarshal(entry["evidence"], &evidence); err != nil || len(evidence) < 5 {
			t.Errorf("evidence: %v, %v", len(evidence), err)
		}
		allowed := []string{"axis", "kind", "metric", "claim", "value", "unit", "source", "date"}
		for _, e := range evidence {
			keys := keysInOrder(t, e)
			for _, k := range keys {
				if !slices.Contains(allowed, k) {
					t.Errorf("evidence has %q", k)
				}
			}
			for _, k := range []string{"axis", "kind", "claim", "source", "date"} {
				if !slices.Contains(keys, k) {
					t.Errorf("evidence lacks %q: %s", k, e)
				}
			}
		}
	}
	if got := keysInOrder(t, mustMarshal(t, vms.Docker.Profile())); !slices.Equal(got, []string{"vm", "fitness", "axes", "evidence"}) {
		t.Errorf("entry: %v", got)
	}
	var back []vms.Profile
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, vms.Rank(vms.Equal())) {
		t.Error("a ranking does not survive its JSON")
	}
}

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// keysInOrder returns the keys of a JSON object as they are written.
func keysInOrder(t *testing.T, object []byte) []string {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for d.More() {
		key, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key.(string))
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			t.Fatal(err)
		}
	}
	return keys
}

func TestRank(t *testing.T) {
	for _, w := range vms.AllWeights() {
		ranked := vms.Rank(w)
		if len(ranked) != 7 {
			t.Fatalf("%s: %d systems", w, len(ranked))
		}
		for i, p := range ranked {
			if p.Fitness != w.Fitness(p.Axes) {
				t.Errorf("%s: fitness of %s is %v", w, p.VM, p.Fitness)
			}
			if i > 0 && (ranked[i-1].Fitness < p.Fitness || ranked[i-1].Fitness == p.Fitness && ranked[i-1].VM > p.VM) {
				t.Errorf("%s: %s before %s", w, ranked[i-1], p)
			}
		}
		if !reflect.DeepEqual(ranked, vms.Rank(w)) {
			t.Errorf("%s: two rankings differ", w)
		}
		shuffled := vms.Profiles()
		rand.New(rand.NewPCG(3, 4)).Shuffle(len(shuffled), func(i, j int) {
			shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
		})
		if !reflect.DeepEqual(ranked, vms.RankProfiles(shuffled, w)) {
			t.Errorf("%s: the ranking depends on the order given", w)
		}
	}
}

func TestRankTies(t *testing.T) {
	given := []vms.Profile{
		vms.NewProfile(vms.Docker, nil), vms.NewProfile(vms.AetherVM, nil),
		vms.NewProfile(vms.Kata, nil), vms.NewProfile(vms.GVisor, nil),
	}
	var order []vms.VM
	for _, p := range vms.RankProfiles(given, vms.Equal()) {
		order = append(order, p.VM)
	}
	if want := []vms.VM{vms.AetherVM, vms.GVisor, vms.Kata, vms.Docker}; !slices.Equal(order, want) {
		t.Errorf("ties come as %v, want %v", order, want)
	}
	if given[0].VM != vms.Docker {
		t.Error("RankProfiles has sorted its argument")
	}
}

func TestCompare(t *testing.T) {
	for _, a := range vms.All() {
		for _, b := range vms.All() {
			ab, ba := vms.Compare(a, b), vms.Compare(b, a)
			if ab.A != a || ab.B != b {
				t.Fatalf("Compare(%s, %s) = %v", a, b, ab)
			}
			if ab.Fitness != -ba.Fitness {
				t.Errorf("%s and %s: fitness %v and %v", a, b, ab.Fitness, ba.Fitness)
			}
			for _, axis := range vms.Axes() {
				if ab.Axes.Of(axis) != -ba.Axes.Of(axis) {
					t.Errorf("%s and %s: %s %v and %v", a, b, axis, ab.Axes.Of(axis), ba.Axes.Of(axis))
				}
				if a.Profile().Axes.Of(axis) > b.Profile().Axes.Of(axis) && ab.Axes.Of(axis) <= 0 {
					t.Errorf("%s fits better than %s on %s, but %v", a, b, axis, ab.Axes.Of(axis))
				}
			}
			if a == b && ab != (vms.Comparison{A: a, B: a}) {
				t.Errorf("%s against itself: %v", a, ab)
			}
			if strings.Contains(ab.String(), "-0.00") && a == b {
				t.Errorf("negative zero: %s", ab)
			}
		}
	}
}

func TestMeasured(t *testing.T) {
	metrics := vms.Metrics{
		"start.cold.p50_ms": 20, "density.idle_mib": 8, "control.jobs_ratio": 1,
		"density.fixed_mib": -1, "other.thing_ms": 4,
	}
	evidence := vms.Measured(metrics, "bench/results/x on host y", "2026-11-24")
	var names []string
	for _, e := range evidence {
		names = append(names, e.Metric)
		if e.Kind != vms.KindMeasured || e.Source == "" || e.Date == "" || e.Claim == "" {
			t.Errorf("%+v", e)
		}
	}
	if want := []string{"start.cold.p50_ms", "density.idle_mib", "control.jobs_ratio"}; !slices.Equal(names, want) {
		t.Errorf("evidence of %v, want %v", names, want)
	}
	if evidence[1].Unit != "MiB" || evidence[0].Unit != "ms" || evidence[2].Unit != "ratio" {
		t.Errorf("units: %v", evidence)
	}

	// Measured replaces published, whatever the order.
	published := vms.Docker.Profile().Evidence
	for _, all := range [][]vms.Evidence{slices.Concat(evidence, published), slices.Concat(published, evidence)} {
		got := vms.MetricsOf(all)
		if got["start.cold.p50_ms"] != 20 || got["density.idle_mib"] != 8 {
			t.Errorf("metrics: %v", got)
		}
		if got["isolation.syscalls_count"] != 256 {
			t.Errorf("published evidence without a measured one is lost: %v", got)
		}
	}

	p := vms.NewProfile(vms.AetherVM, evidence)
	if want := vms.Score(vms.StartLatency, metrics); p.Axes.StartLatency != want || want == 0 {
		t.Errorf("start-latency %v, want %v", p.Axes.StartLatency, want)
	}
	if slices.Contains(p.Gaps(), "start.cold.p50_ms") || !slices.Contains(p.Gaps(), "density.fixed_mib") {
		t.Errorf("gaps: %v", p.Gaps())
	}
}

func TestMetricsOfPrefersLaterDates(t *testing.T) {
	at := func(date string, v float64) vms.Evidence {
		return vms.Evidence{Kind: vms.KindPublished, Metric: "density.idle_mib", Value: &v, Date: date}
	}
	if got := vms.MetricsOf([]vms.Evidence{at("2020", 1), at("2024-05", 2), at("2024", 3)}); got["density.idle_mib"] != 2 {
		t.Errorf("metrics: %v", got)
	}
}

func TestTables(t *testing.T) {
	var b strings.Builder
	if err := vms.WriteRanking(&b, vms.Rank(vms.Equal())); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	if want := []string{"system", "fitness", "start", "density", "isolation", "snapshot", "agent-control", "evidence"}; !slices.Equal(strings.Fields(lines[0]), want) {
		t.Errorf("columns: %q", lines[0])
	}
	if !strings.Contains(b.String(), "[1] aethervm: nothing measured yet") {
		t.Errorf("no footnote on AetherVM:\n%s", b.String())
	}

	for _, p := range vms.Profiles() {
		b.Reset()
		if err := vms.WriteProfile(&b, p); err != nil {
			t.Fatal(err)
		}
		for _, e := range p.Evidence {
			if !strings.Contains(b.String(), e.Claim) || !strings.Contains(b.String(), e.Source) {
				t.Errorf("%s: not shown: %s", p.VM, e.Claim)
			}
		}
		for _, gap := range p.Gaps() {
			if !strings.Contains(b.String(), gap) {
				t.Errorf("%s: gap not shown: %s", p.VM, gap)
			}
		}
	}

	b.Reset()
	if err := vms.WriteRanking(&b, []vms.Profile{vms.NewProfile(vms.Kata, nil)}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "[1] kata: no evidence") {
		t.Errorf("ranking of nothing known:\n%s", b.String())
	}

	broken := errors.New("disk full")
	for name, write := range map[string]func(*failing) error{
		"ranking":    func(w *failing) error { return vms.WriteRanking(w, vms.Profiles()) },
		"profile":    func(w *failing) error { return vms.WriteProfile(w, vms.Docker.Profile()) },
		"comparison": func(w *failing) error { return vms.WriteComparison(w, vms.Docker.Profile(), vms.Kata.Profile()) },
	} {
		if err := write(&failing{broken}); !errors.Is(err, broken) {
			t.Errorf("%s: error %v, want %v", name, err, broken)
		}
	}
}

type failing struct{ err error }

func (f *failing) Write([]byte) (int, error) { return 0, f.err }
