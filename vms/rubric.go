package vms

import "math"

// RubricVersion names the rules by which metrics become scores. It changes whenever a component, a
// weight or an end of a scale does: scores of different versions cannot be compared.
const RubricVersion = "1"

// Component is one line of the rubric: a metric, how much of its axis it makes up, and what it
// scored.
type Component struct {
	Metric string  `json:"metric"`
	Weight float64 `json:"weight"` // share of the axis, 0 to 1
	// Best is the value that scores 1, Worst the one that scores 0. Log tells that between them the
	// score falls with the logarithm of the value: each doubling costs the same.
	Best  float64 `json:"best"`
	Worst float64 `json:"worst"`
	Log   bool    `json:"log"`
	// Value is nil when the metric is not known. The component then scores 0: unknown is not good.
	Value *float64 `json:"value,omitempty"`
	Score float64  `json:"score"`
}

// Score computes the score of one axis, 0 to 1 in steps of 0.0001, from metrics. Of the metrics only
// those of the axis count; values that are negative, infinite or NaN count as unknown.
func Score(axis Axis, metrics Metrics) float64 {
	var sum float64
	for _, c := range Explain(axis, metrics) {
		sum += c.Weight * c.Score
	}
	return round(sum)
}

// scoreAll computes the scores of all axes.
func scoreAll(metrics Metrics) Scores {
	var scores Scores
	for _, a := range Axes() {
		*scores.at(a) = Score(a, metrics)
	}
	return scores
}

// Gaps names the metrics that the rubric asks for and that are not known, in the rubric's order.
func Gaps(axis Axis, metrics Metrics) []string {
	var gaps []string
	for _, c := range Explain(axis, metrics) {
		if c.Value == nil {
			gaps = append(gaps, c.Metric)
		}
	}
	return gaps
}

// Explain returns the components of an axis with what each scored. Without metrics it is the rubric
// itself.
func Explain(axis Axis, metrics Metrics) []Component {
	s := sheet{metrics: metrics}
	switch axis {
	case StartLatency:
		startLatency(&s)
	case Density:
		density(&s)
	case Isolation:
		isolation(&s)
	case Snapshotting:
		snapshotting(&s)
	case AgentControl:
		agentControl(&s)
	}
	return s.components
}

// startLatency scores how long a caller waits. Most of it is the cold start, median and tail; then
// a start in company, the exec that follows, and the first Python. Times run on a logarithm from 1 ms,
// below which the caller's own overhead dominates, to 10 s, where people look for another tool.
// An exec is ten times quicker at both ends, since it is made a thousand times as often.
func startLatency(s *sheet) {
	s.cost(40, "start.cold.p50_ms", 1, 10_000)
	s.cost(15, "start.cold.p99_ms", 1, 10_000)
	s.cost(15, "start.burst8.p99_ms", 1, 10_000)
	s.cost(15, "start.exec.p50_ms", 0.1, 1_000)
	s.cost(10, "start.python.p50_ms", 1, 10_000)
	s.cost(5, "start.close.p50_ms", 1, 10_000)
}

// density scores how many idle sandboxes a host can hold. The scale has ten doublings, so that each
// one costs a tenth: 1 MiB, about what a process with its kernel memory takes, to 1 GiB, an ordinary
// VM. What daemons take once is spread over all sandboxes and weighs little.
func density(s *sheet) {
	s.cost(85, "density.idle_mib", 1, 1_024)
	s.cost(15, "density.fixed_mib", 1, 1_024)
}

// isolation scores what keeps guest code from the host: by design (whose kernel, what boundary, how
// much of the host's kernel it can call), and by what probes found inside, outside and under attack.
// All but one are shares and linear. System calls run from 10, what the strictest seccomp mode and a
// runtime need, to 400, about all that Linux has.
func isolation(s *sheet) {
	s.share(20, "isolation.separate_kernel_ratio")
	s.share(15, "isolation.hardware_boundary_ratio")
	s.share(20, "isolation.inside_ratio")
	s.share(20, "isolation.outside_ratio")
	s.share(15, "isolation.bombs_ratio")
	s.cost(10, "isolation.syscalls_count", 10, 400)
}

// snapshotting scores what survives first, then whether forks are correct, then how fast it all is.
// Saving and restoring run on the scale of a start, because they stand in for one; ten forks at
// once on a scale ten times longer. A snapshot's size runs from 1 MiB, a few dirty pages, to 4 GiB,
// all of an ordinary VM's memory.
func snapshotting(s *sheet) {
	s.share(20, "snapshot.memory_survives_ratio")
	s.share(10, "snapshot.files_survive_ratio")
	s.share(10, "snapshot.pause_ratio")
	s.share(10, "snapshot.fork.unique_ratio")
	s.share(5, "snapshot.fork.clock_ratio")
	s.cost(15, "snapshot.restore.p50_ms", 1, 10_000)
	s.cost(15, "snapshot.fork10.total_ms", 10, 100_000)
	s.cost(10, "snapshot.save.p50_ms", 1, 10_000)
	s.cost(5, "snapshot.disk_mib", 1, 4_096)
}

// agentControl scores what an agent gets done through the system's own control plane, half of it by
// the jobs alone; then whether a program can act on its errors; then what the jobs cost. The costs'
// ends span what the jobs that every system can do may take: from about one terse call a job to a
// hundred times that, and for tokens and bytes a thousand times.
func agentControl(s *sheet) {
	s.share(50, "control.jobs_ratio")
	s.share(20, "control.errors_ratio")
	s.cost(15, "control.tokens_count", 100, 100_000)
	s.cost(10, "control.calls_count", 5, 500)
	s.cost(5, "control.wire_bytes", 1_000, 1_000_000)
}

// sheet is what an axis' function fills in. It sees each metric at most once, by name, with its
// weight in hundredths of the axis.
type sheet struct {
	metrics    Metrics
	components []Component
}

// share enters a metric from 0 to 1 of which more is better, on a linear scale.
func (s *sheet) share(weight int, metric string) {
	s.enter(weight, Component{Metric: metric, Best: 1, Worst: 0}, func(v float64) float64 { return v })
}

// cost enters a metric of which less is better, on a logarithmic scale.
func (s *sheet) cost(weight int, metric string, best, worst float64) {
	s.enter(weight, Component{Metric: metric, Best: best, Worst: worst, Log: true}, func(v float64) float64 {
		if v <= best { // zero, too, which has no logarithm
			return 1
		}
		return 1 - math.Log(v/best)/math.Log(worst/best)
	})
}

func (s *sheet) enter(weight int, c Component, score func(float64) float64) {
	c.Weight = float64(weight) / 100
	if v, known := s.metrics[c.Metric]; known && usable(v) {
		c.Value = &v
		c.Score = round(min(max(score(v), 0), 1))
	}
	s.components = append(s.components, c)
}

// round keeps four decimals, so that the same evidence gives the same digits on every machine, and a
// ranking is by the figures that are shown.
func round(v float64) float64 {
	return math.Round(v*1e4)/1e4 + 0 // + 0 turns a negative zero into zero
}
