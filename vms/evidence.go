package vms

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Kind says how a piece of evidence came about. The zero value is none.
type Kind uint8

// The kinds, best first. Where two pieces of evidence give a value for the same metric, the better
// kind counts, and within a kind the later date.
const (
	// KindMeasured: by this repository's own bench or tests, on the host that Source names.
	KindMeasured Kind = iota + 1
	// KindPublished: a figure that others measured, on their hardware.
	KindPublished
	// KindJudged: read off a document by the curators of this package; Claim says from what, and how.
	KindJudged
)

var kindNames = [...]string{
	KindMeasured:  "measured",
	KindPublished: "published",
	KindJudged:    "judged",
}

func kinds() []Kind { return []Kind{KindMeasured, KindPublished, KindJudged} }

// Valid reports whether k is one of the kinds.
func (k Kind) Valid() bool { return k >= KindMeasured && k <= KindJudged }

// String is the name, for example "published".
func (k Kind) String() string {
	if !k.Valid() {
		return fmt.Sprintf("Kind(%d)", uint8(k))
	}
	return kindNames[k]
}

// MarshalText gives the name.
func (k Kind) MarshalText() ([]byte, error) {
	if !k.Valid() {
		return nil, fmt.Errorf("vms: %s is not a kind of evidence", k)
	}
	return []byte(k.String()), nil
}

// UnmarshalText takes a kind's name as String gives it.
func (k *Kind) UnmarshalText(text []byte) error {
	for _, kind := range kinds() {
		if kind.String() == string(text) {
			*k = kind
			return nil
		}
	}
	return fmt.Errorf("vms: unknown kind of evidence %q", text)
}

// Evidence is one thing that is known about a system, and from where.
type Evidence struct {
	Axis Axis `json:"axis"`
	Kind Kind `json:"kind"`
	// Metric is the name in docs/METRICS.md that Value stands for. Evidence without one, or without
	// a Value, is shown but not scored.
	Metric string `json:"metric,omitempty"`
	// Claim says in words what the source says, and where its definition differs from the metric's.
	Claim string   `json:"claim"`
	Value *float64 `json:"value,omitempty"`
	Unit  string   `json:"unit,omitempty"` // "ms", "MiB", "ratio", "count", "bytes"
	// Source is the title and the link of the paper, document or results.
	Source string `json:"source"`
	// Date is when the source was published: YYYY, YYYY-MM or YYYY-MM-DD. A living document has the
	// year of the version that was read.
	Date string `json:"date"`
}

// scored reports whether the evidence gives a metric a value.
func (e Evidence) scored() bool {
	return e.Metric != "" && e.Value != nil && usable(*e.Value)
}

// figure is the value with its unit, or "-".
func (e Evidence) figure() string {
	if e.Value == nil {
		return "-"
	}
	s := fmt.Sprintf("%.4g", *e.Value)
	if e.Unit != "" && e.Unit != "ratio" && e.Unit != "count" {
		s += " " + e.Unit
	}
	return s
}

// usable: no metric is negative, infinite or not a number; such a value is no value.
func usable(v float64) bool { return v >= 0 && !math.IsInf(v, 0) }

// Metrics maps metric names to values. A metric that is not known is absent, never zero.
type Metrics map[string]float64

// MetricsOf gathers the values that evidence gives its metrics: measured before published before
// judged, then the latest date, then the first in order.
func MetricsOf(evidence []Evidence) Metrics {
	ordered := make([]Evidence, 0, len(evidence))
	for _, e := range evidence {
		if e.scored() {
			ordered = append(ordered, e)
		}
	}
	slices.SortStableFunc(ordered, func(a, b Evidence) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), strings.Compare(b.Date, a.Date))
	})
	metrics := make(Metrics, len(ordered))
	for _, e := range ordered {
		if _, known := metrics[e.Metric]; !known {
			metrics[e.Metric] = *e.Value
		}
	}
	return metrics
}

// Measured makes evidence of measured metrics: for each metric of docs/METRICS.md that has a usable
// value, in the order of axes and names. Metrics of no axis are left out. source names the results and
// the host, date when they were taken.
func Measured(metrics Metrics, source, date string) []Evidence {
	names := make([]string, 0, len(metrics))
	for name, v := range metrics {
		if AxisOf(name).Valid() && usable(v) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(AxisOf(a), AxisOf(b)), strings.Compare(a, b))
	})
	evidence := make([]Evidence, len(names))
	for i, name := range names {
		value := metrics[name]
		evidence[i] = Evidence{
			Axis: AxisOf(name), Kind: KindMeasured, Metric: name,
			Claim: "measured as docs/METRICS.md defines " + name,
			Value: &value, Unit: unitOf(name), Source: source, Date: date,
		}
	}
	return evidence
}

// AxisOf is the axis that a metric belongs to, which is told by its first part; the zero Axis if
// there is none.
func AxisOf(metric string) Axis {
	family, _, _ := strings.Cut(metric, ".")
	switch family {
	case "start":
		return StartLatency
	case "density":
		return Density
	case "isolation":
		return Isolation
	case "snapshot":
		return Snapshotting
	case "control":
		return AgentControl
	}
	return 0
}

// unitOf is the unit that a metric's name ends in, as it is written for people.
func unitOf(metric string) string {
	unit := metric[strings.LastIndexByte(metric, '_')+1:]
	if unit == "mib" {
		return "MiB"
	}
	return unit
}

// clone copies evidence so that neither copy can change the other.
func clone(evidence []Evidence) []Evidence {
	copies := make([]Evidence, len(evidence))
	for i, e := range evidence {
		if e.Value != nil {
			e.Value = new(*e.Value)
		}
		copies[i] = e
	}
	return copies
}
