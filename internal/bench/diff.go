package bench

import (
	"maps"
	"math/rand/v2"
	"slices"

	"golang.org/x/perf/benchmath"
)

// Delta compares one metric of one system in two results.
type Delta struct {
	System string `json:"system"`
	Metric string `json:"metric"`
	// A and B are the values; nil where a side has none.
	A *float64 `json:"a"`
	B *float64 `json:"b"`
	// Ratio is B/A, and RatioLow to RatioHigh its 95% confidence interval (bootstrap of both
	// sides, 2,000 resamples, fixed seed). They are nil where there is no ratio: a side is missing
	// or A is 0. Without at least 3 samples on each side there is no interval.
	Ratio     *float64 `json:"ratio,omitempty"`
	RatioLow  *float64 `json:"ratio_low,omitempty"`
	RatioHigh *float64 `json:"ratio_high,omitempty"`
	// NA and NB are the numbers of samples. P is the probability that samples of one distribution
	// differ as much (Mann-Whitney U test, as benchstat's); nil without samples on both sides.
	NA int      `json:"n_a"`
	NB int      `json:"n_b"`
	P  *float64 `json:"p,omitempty"`
	// Differs: P is below 0.05. With few samples P cannot become so small, whatever the difference.
	Differs bool `json:"differs"`
}

// Diff compares two results metric by metric, in the order of systems' and metrics' names. Systems
// that neither has measured are left out.
func Diff(a, b *Results) []Delta {
	rules := map[string]metricRule{}
	for _, rule := range metricRules() {
		rules[rule.metric] = rule
	}
	systems := maps.Collect(maps.All(a.Systems))
	maps.Copy(systems, b.Systems)
	var out []Delta
	for _, name := range slices.Sorted(maps.Keys(systems)) {
		sa, sb := a.Systems[name], b.Systems[name]
		if sa == nil {
			sa = &System{}
		}
		if sb == nil {
			sb = &System{}
		}
		metrics := maps.Clone(sa.Metrics)
		if metrics == nil {
			metrics = map[string]float64{}
		}
		maps.Copy(metrics, sb.Metrics)
		for _, metric := range slices.Sorted(maps.Keys(metrics)) {
			d := Delta{System: name, Metric: metric, A: lookup(sa.Metrics, metric), B: lookup(sb.Metrics, metric)}
			if rule, ok := rules[metric]; ok {
				d.compare(rule, a.Values(name, rule.series), b.Values(name, rule.series))
			} else if d.A != nil && d.B != nil && *d.A != 0 {
				d.Ratio = new(*d.B / *d.A)
			}
			out = append(out, d)
		}
	}
	return out
}

func lookup(m map[string]float64, key string) *float64 {
	if v, ok := m[key]; ok {
		return &v
	}
	return nil
}

// compare fills in what samples tell.
func (d *Delta) compare(rule metricRule, a, b []float64) {
	d.NA, d.NB = len(a), len(b)
	hasRatio := d.A != nil && d.B != nil && *d.A != 0
	if hasRatio {
		d.Ratio = new(*d.B / *d.A)
	}
	if d.NA == 0 || d.NB == 0 {
		return
	}
	c := benchmath.AssumeNothing.Compare(
		benchmath.NewSample(slices.Clone(a), &benchmath.DefaultThresholds),
		benchmath.NewSample(slices.Clone(b), &benchmath.DefaultThresholds))
	d.P, d.Differs = &c.P, c.P < c.Alpha
	if hasRatio && d.NA >= 3 && d.NB >= 3 {
		d.interval(rule, a, b)
	}
}

func (d *Delta) interval(rule metricRule, a, b []float64) {
	ratios := bootstrap(func(r *rand.Rand) float64 {
		va, vb := rule.from(resample(r, a)), rule.from(resample(r, b))
		if va == 0 {
			return *d.Ratio // no ratio: it says nothing either way
		}
		return vb / va
	})
	low, high := quantile((1-confidence)/2, ratios), quantile((1+confidence)/2, ratios)
	d.RatioLow, d.RatioHigh = &low, &high
}
