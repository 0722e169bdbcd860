package vms

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// String is one line: "docker: fitness 0.31 (start-latency 0.15, ...)".
func (p Profile) String() string {
	return fmt.Sprintf("%s: fitness %.2f (%s)", p.VM, p.Fitness, axesLine(p.Axes, "%.2f"))
}

// String is one line: "gvisor vs docker: fitness +0.10 (start-latency +0.03, ...)".
func (c Comparison) String() string {
	return fmt.Sprintf("%s vs %s: fitness %+.2f (%s)", c.A, c.B, c.Fitness, axesLine(c.Axes, "%+.2f"))
}

func axesLine(s Scores, format string) string {
	parts := make([]string, 0, len(Axes()))
	for _, a := range Axes() {
		parts = append(parts, a.String()+" "+fmt.Sprintf(format, s.Of(a)))
	}
	return strings.Join(parts, ", ")
}

// WriteRanking writes ranked profiles as a table with one system a line, and footnotes on what the
// figures are worth.
func WriteRanking(w io.Writer, ranked []Profile) error {
	t := newTable()
	t.row("system", "fitness", "start", "density", "isolation", "snapshot", "agent-control", "evidence")
	var notes []string
	var published, gaps bool
	for _, p := range ranked {
		evidence := p.kindsLine()
		if evidence == "" {
			note := p.VM.Name() + ": no evidence"
			if len(p.Evidence) > 0 {
				note = p.VM.Name() + ": " + p.Evidence[0].Claim
			}
			notes = append(notes, note)
			evidence = fmt.Sprintf("none [%d]", len(notes))
		}
		cells := []string{p.VM.Name(), fmt.Sprintf("%.4f", p.Fitness)} // in full, as the order hangs on it
		for _, a := range Axes() {
			cells = append(cells, fmt.Sprintf("%.2f", p.Axes.Of(a)))
		}
		t.row(append(cells, evidence)...)
		published = published || p.hasKind(KindPublished)
		gaps = gaps || len(p.Gaps()) > 0
	}
	for i, note := range notes {
		t.line(fmt.Sprintf("[%d] %s", i+1, note))
	}
	if gaps {
		t.line("A metric without evidence earns nothing; a system's profile names its gaps.")
	}
	if published {
		t.line("Published figures are from different hardware and definitions: see docs/RUBRIC.md.")
	}
	return t.flush(w)
}

// WriteProfile writes a profile: its scores, the evidence behind each axis, and the gaps. Each figure
// has a number, under which its claim and its source stand below the table.
func WriteProfile(w io.Writer, p Profile) error {
	t := newTable()
	t.line(fmt.Sprintf("%s (%s): fitness %.2f, rubric %s", p.VM.DisplayName(), p.VM, p.Fitness, RubricVersion))
	metrics := MetricsOf(p.Evidence)
	shown := 0
	for _, a := range Axes() {
		t.line("")
		t.line(fmt.Sprintf("%s %.2f", a, p.Axes.Of(a)))
		scores := make(map[string]Component)
		for _, c := range Explain(a, metrics) {
			scores[c.Metric] = c
		}
		t.row("  metric", "value", "score", "weight", "kind", "date", "source")
		var notes []string
		for _, e := range p.Evidence {
			if e.Axis != a {
				continue
			}
			metric, score, weight := e.Metric, "-", "-"
			if metric == "" {
				metric = "(not scored)"
			}
			// Of several values for one metric only the one that counted has a score.
			if c, ok := scores[e.Metric]; ok && e.scored() && *c.Value == *e.Value {
				score, weight = fmt.Sprintf("%.2f", c.Score), fmt.Sprintf("%.2f", c.Weight)
			}
			shown++
			mark := fmt.Sprintf("[%d]", shown)
			t.row("  "+metric, e.figure(), score, weight, e.Kind.String(), e.Date, mark)
			notes = append(notes, "  "+mark+" "+e.Claim, strings.Repeat(" ", len(mark)+3)+e.Source)
		}
		t.end()
		for _, note := range notes {
			t.line(note)
		}
		if gaps := Gaps(a, metrics); len(gaps) > 0 {
			t.line("  gaps, each scoring 0: " + strings.Join(gaps, " "))
		}
	}
	return t.flush(w)
}

// WriteComparison writes the scores of two profiles side by side with their differences.
func WriteComparison(w io.Writer, a, b Profile) error {
	c := CompareProfiles(a, b)
	t := newTable()
	t.row("score", a.VM.Name(), b.VM.Name(), "difference")
	t.row("fitness", fmt.Sprintf("%.2f", a.Fitness), fmt.Sprintf("%.2f", b.Fitness), fmt.Sprintf("%+.2f", c.Fitness))
	for _, axis := range Axes() {
		t.row(axis.String(), fmt.Sprintf("%.2f", a.Axes.Of(axis)), fmt.Sprintf("%.2f", b.Axes.Of(axis)),
			fmt.Sprintf("%+.2f", c.Axes.Of(axis)))
	}
	t.line(fmt.Sprintf("Positive: %s fits better.", a.VM))
	return t.flush(w)
}

func (p Profile) hasKind(k Kind) bool {
	return slices.ContainsFunc(p.Evidence, func(e Evidence) bool { return e.Kind == k && e.scored() })
}

// kindsLine counts the scored evidence by kind: "5 published, 6 judged".
func (p Profile) kindsLine() string {
	var parts []string
	for _, k := range kinds() {
		n := 0
		for _, e := range p.Evidence {
			if e.Kind == k && e.scored() {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, k))
		}
	}
	return strings.Join(parts, ", ")
}

// table collects lines and aligned rows, and writes them at once, so that a failing writer is
// noticed once and nothing else can fail.
type table struct {
	out  strings.Builder
	rows *tabwriter.Writer // nil between runs of rows
}

func newTable() *table { return &table{} }

func (t *table) row(cells ...string) {
	if t.rows == nil {
		t.rows = tabwriter.NewWriter(&t.out, 0, 0, 2, ' ', 0)
	}
	_, _ = io.WriteString(t.rows, strings.Join(cells, "\t")+"\n") // a strings.Builder cannot fail
}

// end aligns the rows since the last line.
func (t *table) end() {
	if t.rows != nil {
		_ = t.rows.Flush()
		t.rows = nil
	}
}

func (t *table) line(s string) {
	t.end()
	t.out.WriteString(s + "\n")
}

func (t *table) flush(w io.Writer) error {
	t.end()
	_, err := io.WriteString(w, t.out.String())
	return err
}
