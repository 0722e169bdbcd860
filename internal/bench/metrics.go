package bench

import (
	"slices"
	"strings"
)

// metricRule says how a metric comes from a series of samples.
type metricRule struct {
	metric, series string
	from           func([]float64) float64
}

// metricRules are all metrics but those of the isolation axis, whose names package probe gives.
func metricRules() []metricRule {
	at := func(p float64) func([]float64) float64 {
		return func(v []float64) float64 { return quantile(p, slices.Sorted(slices.Values(v))) }
	}
	p50, p95, p99 := at(0.50), at(0.95), at(0.99)
	return []metricRule{
		{"start.cold.p50_ms", "start.cold", p50},
		{"start.cold.p95_ms", "start.cold", p95},
		{"start.cold.p99_ms", "start.cold", p99},
		{"start.python.p50_ms", "start.python", p50},
		{"start.exec.p50_ms", "start.exec", p50},
		{"start.exec.p99_ms", "start.exec", p99},
		{"start.burst8.p50_ms", "start.burst8", p50},
		{"start.burst8.p99_ms", "start.burst8", p99},
		{"start.close.p50_ms", "start.close", p50},
		{"start.stream50.p50_ms", "start.stream50", p50},

		{"density.idle_mib", "density.idle", p50},
		{"density.vmm_mib", "density.vmm", p50},
		{"density.fixed_mib", "density.fixed", p50},
		{"density.sandboxes_count", "density.sandboxes", slices.Max[[]float64]},

		{"snapshot.memory_survives_ratio", "snapshot.memory_survives", mean},
		{"snapshot.files_survive_ratio", "snapshot.files_survive", mean},
		{"snapshot.pause_ratio", "snapshot.pause", mean},
		{"snapshot.save.p50_ms", "snapshot.save", p50},
		{"snapshot.restore.p50_ms", "snapshot.restore", p50},
		{"snapshot.disk_mib", "snapshot.disk", p50},
		{"snapshot.fork10.total_ms", "snapshot.fork10.total", p50},
		{"snapshot.fork.unique_ratio", "snapshot.fork.unique", mean},
		{"snapshot.fork.clock_ratio", "snapshot.fork.clock", mean},
		{"snapshot.fork.prng_ratio", "snapshot.fork.prng", mean},
		{"snapshot.live.first.p50_ms", "snapshot.live.first", p50},
		{"snapshot.live.fork1.p50_ms", "snapshot.live.fork1", p50},
		{"snapshot.live.fork10.p50_ms", "snapshot.live.fork10", p50},
		{"snapshot.template.create.p50_ms", "snapshot.template.create", p50},
		{"snapshot.template.disk_mib", "snapshot.template.disk", p50},
		{"snapshot.template.fork1.p50_ms", "snapshot.template.fork1", p50},
		{"snapshot.template.fork10.p50_ms", "snapshot.template.fork10", p50},

		{"control.jobs_count", "control.job", sum},
		{"control.jobs_ratio", "control.job", mean},
		{"control.calls_count", "control.calls", p50},
		{"control.wire_bytes", "control.wire", p50},
		{"control.tokens_count", "control.tokens", p50},
		{"control.errors_ratio", "control.error", mean},
		{"control.agent_jobs_count", "control.agent_job", sum},
		{"control.agent_jobs_ratio", "control.agent_job", mean},
	}
}

func sum(values []float64) (total float64) {
	for _, v := range values {
		total += v
	}
	return total
}

// series are the counted samples of one system by name.
type series map[string][]Sample

func seriesOf(samples []Sample, system string) series {
	out := series{}
	for _, s := range samples {
		if s.System == system && s.Kind == KindValue && !s.Interrupted {
			out[s.Name] = append(out[s.Name], s)
		}
	}
	return out
}

func values(samples []Sample) []float64 {
	out := make([]float64, len(samples))
	for i, s := range samples {
		out[i] = s.Value
	}
	return out
}

// metrics computes what can be had from the series.
func (s series) metrics() map[string]float64 {
	out := map[string]float64{}
	for _, rule := range metricRules() {
		if samples := s[rule.series]; len(samples) > 0 {
			out[rule.metric] = rule.from(values(samples))
		}
	}
	for name, samples := range s {
		if strings.HasPrefix(name, "isolation.") {
			last := samples[len(samples)-1]
			out[name+"_"+last.Unit] = last.Value
		}
	}
	return out
}
