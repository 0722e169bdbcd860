package vms

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables of docs/RUBRIC.md")

const (
	rubricDoc  = "../docs/RUBRIC.md"
	metricsDoc = "../docs/METRICS.md"
)

// TestRubricDoc keeps the tables of docs/RUBRIC.md equal to the code.
func TestRubricDoc(t *testing.T) {
	data, err := os.ReadFile(rubricDoc)
	if err != nil {
		t.Fatal(err)
	}
	have := string(data)
	want := have
	for _, a := range Axes() {
		want = replaceTable(t, want, a.String(), rubricTable(a))
	}
	want = replaceTable(t, want, "weights", weightsTable())
	if want == have {
		return
	}
	if !*update {
		t.Fatalf("%s is not what the code says; run: go test ./vms -run Rubric -update", rubricDoc)
	}
	if err := os.WriteFile(rubricDoc, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

func replaceTable(t *testing.T, doc, name, table string) string {
	t.Helper()
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->"
	head, rest, ok := strings.Cut(doc, begin)
	if !ok {
		t.Fatalf("%s: no %q", rubricDoc, begin)
	}
	_, tail, ok := strings.Cut(rest, end)
	if !ok {
		t.Fatalf("%s: no %q", rubricDoc, end)
	}
	return head + begin + table + end + tail
}

func rubricTable(a Axis) string {
	var b strings.Builder
	b.WriteString("| metric | weight | scores 1 at | scores 0 at | scale |\n|---|---|---|---|---|\n")
	for _, c := range Explain(a, nil) {
		scale := "linear"
		if c.Log {
			scale = "logarithmic"
		}
		fmt.Fprintf(&b, "| `%s` | %.2f | %s | %s | %s |\n", c.Metric, c.Weight, number(c.Best), number(c.Worst), scale)
	}
	return b.String()
}

func weightsTable() string {
	var b strings.Builder
	b.WriteString("| name | for |")
	rule := "|---|---|"
	for _, a := range Axes() {
		fmt.Fprintf(&b, " %s |", a)
		rule += "---|"
	}
	b.WriteString("\n" + rule + "\n")
	for _, w := range AllWeights() {
		fmt.Fprintf(&b, "| `%s` | %s |", w, w.About())
		for _, a := range Axes() {
			fmt.Fprintf(&b, " %.2f |", w.Of(a))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// documented returns every metric name of docs/METRICS.md. A cell names several metrics by their
// last parts: "`start.cold.p50_ms` `.p95_ms`".
func documented(t *testing.T) map[string]bool {
	t.Helper()
	data, err := os.ReadFile(metricsDoc)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	code := regexp.MustCompile("`([a-z0-9._]+)`")
	for line := range strings.Lines(string(data)) {
		cell, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		if !ok {
			continue
		}
		full := ""
		for _, m := range code.FindAllStringSubmatch(cell, -1) {
			name := m[1]
			if strings.HasPrefix(name, ".") {
				name = full[:strings.LastIndexByte(full, '.')] + name
			}
			full = name
			names[name] = true
		}
	}
	if len(names) < 30 {
		t.Fatalf("found only %d metrics in %s", len(names), metricsDoc)
	}
	return names
}

func TestRubricIsComplete(t *testing.T) {
	metrics := documented(t)
	seen := make(map[string]bool)
	for _, a := range Axes() {
		hundredths := 0
		for _, c := range Explain(a, nil) {
			hundredths += int(math.Round(c.Weight * 100))
			if !metrics[c.Metric] {
				t.Errorf("%s: %s is not in %s", a, c.Metric, metricsDoc)
			}
			if seen[c.Metric] {
				t.Errorf("%s is scored twice", c.Metric)
			}
			seen[c.Metric] = true
			if AxisOf(c.Metric) != a {
				t.Errorf("%s is scored on %s", c.Metric, a)
			}
			if c.Log && c.Best >= c.Worst || !c.Log && (c.Best != 1 || c.Worst != 0) {
				t.Errorf("%s: ends %v and %v", c.Metric, c.Best, c.Worst)
			}
			if c.Value != nil || c.Score != 0 {
				t.Errorf("%s: a score of %v without a value", c.Metric, c.Score)
			}
		}
		if hundredths != 100 {
			t.Errorf("%s: weights sum to %d hundredths", a, hundredths)
		}
	}
}

func TestScoreEnds(t *testing.T) {
	best, worst := make(Metrics), make(Metrics)
	for _, a := range Axes() {
		for _, c := range Explain(a, nil) {
			best[c.Metric], worst[c.Metric] = c.Best, c.Worst
		}
	}
	for _, a := range Axes() {
		if got := Score(a, best); got != 1 {
			t.Errorf("%s: all at their best: %v, want 1", a, got)
		}
		if got := Score(a, worst); got != 0 {
			t.Errorf("%s: all at their worst: %v, want 0", a, got)
		}
		if got := Score(a, nil); got != 0 {
			t.Errorf("%s: nothing known: %v, want 0", a, got)
		}
		if gaps := Gaps(a, best); len(gaps) != 0 {
			t.Errorf("%s: gaps %v with all known", a, gaps)
		}
		if got, want := len(Gaps(a, nil)), len(Explain(a, nil)); got != want {
			t.Errorf("%s: %d gaps with nothing known, want %d", a, got, want)
		}
	}
	if got := Score(0, best); got != 0 {
		t.Errorf("no axis: %v, want 0", got)
	}
}

func TestScoreValues(t *testing.T) {
	tests := []struct {
		name    string
		axis    Axis
		metrics Metrics
		want    float64
	}{
		{"a decade of four is a quarter", StartLatency, Metrics{"start.cold.p50_ms": 10}, 0.40 * 0.75},
		{"middle of a logarithm", StartLatency, Metrics{"start.cold.p50_ms": 100}, 0.40 * 0.50},
		{"a doubling of ten is a tenth", Density, Metrics{"density.idle_mib": 2}, 0.85 * 0.9},
		{"zero is the best magnitude", Density, Metrics{"density.fixed_mib": 0}, 0.15},
		{"beyond the worst", Density, Metrics{"density.idle_mib": 1 << 20}, 0},
		{"shares are linear", Isolation, Metrics{"isolation.inside_ratio": 0.25}, 0.05},
		{"shares end at one", Isolation, Metrics{"isolation.inside_ratio": 7}, 0.20},
		{"negative is unknown", Density, Metrics{"density.fixed_mib": -1}, 0},
		{"NaN is unknown", Density, Metrics{"density.fixed_mib": math.NaN()}, 0},
		{"infinite is unknown", Density, Metrics{"density.fixed_mib": math.Inf(1)}, 0},
		{"other axes do not count", Density, Metrics{"start.cold.p50_ms": 1}, 0},
		{"metrics without a component do not count", Isolation, Metrics{"isolation.unknown_count": 3}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Score(tt.axis, tt.metrics); math.Abs(got-tt.want) > 1e-4 {
				t.Errorf("Score = %v, want %v", got, tt.want)
			}
		})
	}
}

// randomMetrics gives each metric of the rubric a value around its scale, or none, or a broken one.
func randomMetrics(r *rand.Rand) Metrics {
	metrics := make(Metrics)
	for _, a := range Axes() {
		for _, c := range Explain(a, nil) {
			switch r.IntN(10) {
			case 0: // absent
			case 1:
				metrics[c.Metric] = []float64{0, -1, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64}[r.IntN(6)]
			default:
				if c.Log {
					metrics[c.Metric] = c.Best / 10 * math.Pow(c.Worst/c.Best*100, r.Float64())
				} else {
					metrics[c.Metric] = r.Float64() * 1.2
				}
			}
		}
	}
	return metrics
}

func TestScoreProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		metrics := randomMetrics(r)
		for _, a := range Axes() {
			before := Score(a, metrics)
			if !(before >= 0 && before <= 1) {
				t.Fatalf("%s: score %v of %v", a, before, metrics)
			}
			for _, c := range Explain(a, metrics) {
				if c.Value == nil {
					continue
				}
				old := metrics[c.Metric]
				better := old * r.Float64()
				if !c.Log {
					better = old + r.Float64()
				}
				metrics[c.Metric] = better
				if after := Score(a, metrics); after < before {
					t.Fatalf("%s: %s from %v to %v lowers the score from %v to %v", a, c.Metric, old, better, before, after)
				}
				delete(metrics, c.Metric)
				if after := Score(a, metrics); after > before {
					t.Fatalf("%s: losing %s raises the score from %v to %v", a, c.Metric, before, after)
				}
				metrics[c.Metric] = old
			}
		}
	}
}

func TestWeights(t *testing.T) {
	for _, w := range AllWeights() {
		hundredths := 0
		for _, a := range Axes() {
			if w.Of(a) < 0 {
				t.Errorf("%s: %s weighs %v", w, a, w.Of(a))
			}
			hundredths += int(math.Round(w.Of(a) * 100))
		}
		if hundredths != 100 {
			t.Errorf("%s: sum to %d hundredths", w, hundredths)
		}
		if got := w.Fitness(Scores{1, 1, 1, 1, 1}); got != 1 {
			t.Errorf("%s: fitness %v of perfect scores", w, got)
		}
		parsed, err := ParseWeights(strings.ToUpper(strings.ReplaceAll(w.Name(), "-", " ")))
		if err != nil || parsed != w {
			t.Errorf("ParseWeights(%s) = %v, %v", w, parsed, err)
		}
	}
	if got, want := Equal().Fitness(Scores{0.1, 0.2, 0.3, 0.4, 0.6}), 0.32; got != want {
		t.Errorf("unweighted mean = %v, want %v", got, want)
	}
	if w, err := ParseWeights(""); err != nil || w != Equal() {
		t.Errorf("ParseWeights of nothing = %v, %v", w, err)
	}
}
