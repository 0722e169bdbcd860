package bench

import (
	"fmt"
	"slices"

	"github.com/aethervm/aether/vms"
)

func rubricVersion() string { return vms.RubricVersion }

// Profiles returns the profiles of the systems that were measured, in the fixed order of package
// vms, each scored by the rubric of this program from the metrics alone.
func (r *Results) Profiles() []vms.Profile {
	var out []vms.Profile
	for _, vm := range vms.All() {
		if s := r.Systems[vm.Name()]; s != nil && s.Available && len(s.Metrics) > 0 {
			out = append(out, vms.NewProfile(vm, r.evidence(s)))
		}
	}
	return out
}

// evidence makes evidence of a system's metrics.
func (r *Results) evidence(s *System) []vms.Evidence {
	source := fmt.Sprintf("aether bench, %s, Linux %s", orNone(r.Host.CPU), orNone(r.Host.Kernel))
	if s.Version != "" {
		source += ", " + s.Version
	}
	if s.Accelerator != "" {
		source += " (" + s.Accelerator + ")"
	}
	date := r.Started
	if !r.Finished.IsZero() {
		date = r.Finished
	}
	return vms.Measured(s.Metrics, source, date.Format("2006-01-02"))
}

// scores are those of the axes that r measured and that s has any metric of: an axis of which
// nothing is known has no score, not a bad one.
func (r *Results) scores(name string, s *System) map[Axis]float64 {
	if _, err := vms.Parse(name); err != nil || !s.Available {
		return nil
	}
	out := map[Axis]float64{}
	for _, axis := range vms.Axes() {
		known := false
		for metric := range s.Metrics {
			known = known || vms.AxisOf(metric) == axis
		}
		if a := Axis(axis.String()); known && slices.Contains(r.Axes, a) {
			out[a] = vms.Score(axis, s.Metrics)
		}
	}
	return out
}
