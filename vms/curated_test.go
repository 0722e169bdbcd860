package vms

import (
	"math"
	"regexp"
	"strings"
	"testing"
)

func TestCuratedEvidence(t *testing.T) {
	metrics := documented(t)
	date := regexp.MustCompile(`^20\d\d(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?$`)
	for _, vm := range All() {
		t.Run(vm.Name(), func(t *testing.T) {
			seen := make(map[string]bool)
			byAxis := make(map[Axis]int)
			for _, e := range vm.Profile().Evidence {
				byAxis[e.Axis]++
				if !e.Axis.Valid() || !e.Kind.Valid() {
					t.Errorf("axis %v, kind %v: %s", e.Axis, e.Kind, e.Claim)
				}
				if e.Claim == "" || !strings.Contains(e.Source, "https://") || !date.MatchString(e.Date) {
					t.Errorf("claim %q, source %q, date %q", e.Claim, e.Source, e.Date)
				}
				if (e.Value == nil) != (e.Unit == "") {
					t.Errorf("value and unit go together: %s", e.Claim)
				}
				if e.Metric == "" {
					continue
				}
				if !metrics[e.Metric] {
					t.Errorf("%s is not in %s", e.Metric, metricsDoc)
				}
				if e.Axis != AxisOf(e.Metric) || e.Unit != unitOf(e.Metric) {
					t.Errorf("%s: axis %s, unit %s", e.Metric, e.Axis, e.Unit)
				}
				if !e.scored() {
					t.Errorf("%s: no usable value", e.Metric)
				}
				if strings.HasSuffix(e.Metric, "_ratio") && *e.Value > 1 {
					t.Errorf("%s = %v", e.Metric, *e.Value)
				}
				if seen[e.Metric] {
					t.Errorf("%s has two values", e.Metric)
				}
				seen[e.Metric] = true
			}
			for _, a := range Axes() {
				if byAxis[a] == 0 {
					t.Errorf("no evidence on %s", a)
				}
			}
		})
	}
}

// TestAetherVMClaimsNothing: only a measurement of this repository may give AetherVM a value.
func TestAetherVMClaimsNothing(t *testing.T) {
	for _, e := range AetherVM.Profile().Evidence {
		if e.Value != nil && e.Kind != KindMeasured {
			t.Errorf("%s: %s value %v", e.Axis, e.Kind, *e.Value)
		}
	}
}

func TestCuratedIsImmutable(t *testing.T) {
	for _, vm := range All() {
		before := vm.Profile()
		changed := vm.Profile()
		for i := range changed.Evidence {
			if changed.Evidence[i].Value != nil {
				*changed.Evidence[i].Value = math.NaN()
			}
			changed.Evidence[i].Claim = "changed"
		}
		if len(vm.Aliases()) > 0 {
			vm.Aliases()[0] = "changed"
		}
		after := vm.Profile()
		if after.Axes != before.Axes {
			t.Errorf("%s: scores changed from %v to %v", vm, before.Axes, after.Axes)
		}
		for i, e := range after.Evidence {
			if e.Claim == "changed" || e.Value != nil && math.IsNaN(*e.Value) {
				t.Errorf("%s: evidence %d was changed through a copy", vm, i)
			}
		}
	}
	all := All()
	all[0] = Docker
	if All()[0] != AetherVM {
		t.Error("All was changed through a copy")
	}

	value := 5.0
	given := []Evidence{{Axis: Density, Kind: KindMeasured, Metric: "density.idle_mib", Value: &value, Unit: "MiB"}}
	p := NewProfile(Docker, given)
	ranked := RankProfiles([]Profile{p}, Equal())
	value, given[0].Claim = 500, "changed"
	*p.Evidence[0].Value = 50
	if *ranked[0].Evidence[0].Value != 5 || ranked[0].Evidence[0].Claim != "" {
		t.Errorf("a ranked profile shares evidence with what it was made from: %+v", ranked[0].Evidence[0])
	}
}
