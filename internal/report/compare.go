package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/aethervm/aether/internal/bench"
	"github.com/aethervm/aether/vms"
)

// buildComparison makes the page about what has changed from a to b.
func buildComparison(a, b *bench.Results) (page, error) {
	both := merged(a, b)
	p := page{
		Title:   "Two measurements compared",
		Lead:    fmt.Sprintf("A was begun on %s, B on %s.", clock(a), clock(b)),
		Version: "aether " + b.AetherVersion,
		Method: []string{
			"The ratio is B divided by A; its interval holds with 95% confidence (bootstrap of both sides, fixed seed).",
			"Two sides differ when the Mann-Whitney U test gives a p below 0.05. With few samples it cannot, whatever the difference; no difference shown is not the same as equal.",
			"A metric that only one side has is shown, and not compared.",
		},
	}
	p.Warnings = unlike(a, b)
	p.Tables = append(p.Tables, hostTable(a, b), scoreTable(a, b, both))
	deltas := bench.Diff(a, b)
	p.Nav = []link{{"scores", "Hosts and scores"}}
	for _, axis := range vms.Axes() {
		section, err := compareAxis(a, b, axis, both, deltas)
		if err != nil {
			return p, err
		}
		p.Axes = append(p.Axes, section)
		p.Nav = append(p.Nav, link{section.ID, section.Title})
	}
	p.Nav = append(p.Nav, link{"method", "Method"})
	return p, nil
}

func clock(r *bench.Results) string { return r.Started.UTC().Format("2006-01-02 15:04 UTC") }

// pair is a system that at least one side has measured.
type pair struct {
	id    string
	color int
	// a and b are nil on a side that has not measured the system.
	a, b *measured
}

// label names the system; where the sides ran it on different accelerators, both.
func (p pair) label() string {
	switch {
	case p.a == nil:
		return p.b.label()
	case p.b == nil || p.a.label() == p.b.label():
		return p.a.label()
	}
	return fmt.Sprintf("%s (%s, %s)", p.a.title, p.a.Accelerator, p.b.Accelerator)
}

func merged(a, b *bench.Results) []pair {
	var pairs []pair
	add := func(with []measured, side func(*pair) **measured) {
		for _, m := range with {
			i := slices.IndexFunc(pairs, func(p pair) bool { return p.id == m.id })
			if i < 0 {
				i = len(pairs)
				pairs = append(pairs, pair{id: m.id, color: m.color})
			}
			*side(&pairs[i]) = &m
		}
	}
	withA, _ := systemsOf(a)
	withB, _ := systemsOf(b)
	add(withA, func(p *pair) **measured { return &p.a })
	add(withB, func(p *pair) **measured { return &p.b })
	slices.SortStableFunc(pairs, func(x, y pair) int { return x.color - y.color })
	return pairs
}

// unlike warns of what keeps two measurements from being comparable.
func unlike(a, b *bench.Results) []string {
	var out []string
	warn := func(what, x, y string) {
		if x != y {
			out = append(out, fmt.Sprintf("The %s differs: %s in A, %s in B.", what, orNone(x), orNone(y)))
		}
	}
	warn("processor", a.Host.CPU, b.Host.CPU)
	warn("number of CPUs", fmt.Sprint(a.Host.CPUs), fmt.Sprint(b.Host.CPUs))
	warn("kernel", a.Host.Kernel, b.Host.Kernel)
	warn("image", a.Spec.ImageDigest, b.Spec.ImageDigest)
	warn("rubric, and with it the meaning of scores,", a.RubricVersion, b.RubricVersion)
	for _, p := range merged(a, b) {
		if p.a != nil && p.b != nil {
			warn("accelerator of "+p.a.title, p.a.Accelerator, p.b.Accelerator)
		}
	}
	return out
}

func orNone(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func hostTable(a, b *bench.Results) table {
	t := table{Title: "The two sides", Head: head("", "A", "B")}
	names, sides := []string{}, [2]map[string]string{{}, {}}
	for i, r := range []*bench.Results{a, b} {
		for _, f := range facts(r) {
			if !slices.Contains(names, f.Name) {
				names = append(names, f.Name)
			}
			sides[i][f.Name] = f.Value
		}
	}
	for _, name := range names {
		t.Rows = append(t.Rows, []cell{rowHead(name, ""), {Text: orDash(sides[0][name])}, {Text: orDash(sides[1][name])}})
	}
	return t
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// scoreTable has a row for each system and axis.
func scoreTable(a, b *bench.Results, both []pair) table {
	t := table{
		Title: "Scores", Text: "From 0 to 1, more is better.",
		Head: numericHead("Axis", "A", "B", "B − A"),
	}
	if a.RubricVersion != b.RubricVersion {
		t.Text += " The two sides were scored by different rubrics."
	}
	for _, p := range both {
		name := rowHead(p.label(), "")
		name.Class = "total"
		t.Rows = append(t.Rows, []cell{name, {Class: "total"}, {Class: "total"}, {Class: "total"}})
		for _, axis := range vms.Axes() {
			x, okX := p.a.score(axis)
			y, okY := p.b.score(axis)
			row := []cell{rowHead(axisTexts[axis].title, ""), numeric("–"), numeric("–"), numeric("–")}
			if okX {
				row[1].Text = fmt.Sprintf("%.3f", x)
			}
			if okY {
				row[2].Text = fmt.Sprintf("%.3f", y)
			}
			if okX && okY {
				row[3].Text = strings.Replace(fmt.Sprintf("%+.3f", y-x), "-", "−", 1)
			}
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

func (m *measured) score(axis vms.Axis) (float64, bool) {
	if m == nil {
		return 0, false
	}
	s, ok := m.Axes[bench.Axis(axis.String())]
	return s, ok
}

func compareAxis(a, b *bench.Results, axis vms.Axis, both []pair, deltas []bench.Delta) (axisSection, error) {
	text := axisTexts[axis]
	s := axisSection{ID: axis.String(), Title: text.title, Text: text.text}
	names := map[string]bool{}
	for _, p := range both {
		for _, m := range []*measured{p.a, p.b} {
			if m != nil {
				plottable(m.System, text.prefix, names)
			}
		}
	}
	for _, name := range sortedSeries(names) {
		var rows []strip
		unit := ""
		for _, p := range both {
			for _, side := range []struct {
				name string
				m    *measured
				r    *bench.Results
			}{{"A", p.a, a}, {"B", p.b, b}} {
				if side.m == nil {
					continue
				}
				if values := side.r.Values(p.id, name); len(values) > 0 {
					rows = append(rows, strip{side.m.label() + " " + side.name, p.color, values})
					unit = side.m.Stats[name].Unit
				}
			}
		}
		fig, ok, err := stripFigure(name, unit, rows)
		if err != nil {
			return s, err
		}
		if ok {
			s.Plots = append(s.Plots, fig)
		}
	}
	if t := deltaTable(axis, both, deltas); len(t.Rows) > 0 {
		s.Tables = append(s.Tables, t)
	}
	return s, nil
}

// deltaTable shows the metrics of an axis of both sides.
func deltaTable(axis vms.Axis, both []pair, deltas []bench.Delta) table {
	t := table{Title: "Figures", Head: numericHead("Metric", "System", "A", "B", "B / A", "95% interval", "p", "")}
	t.Head[1].Numeric, t.Head[7].Numeric = false, false
	var mine []bench.Delta
	for _, d := range deltas {
		if vms.AxisOf(d.Metric) == axis {
			mine = append(mine, d)
		}
	}
	position := func(d bench.Delta) int {
		return slices.IndexFunc(both, func(p pair) bool { return p.id == d.System })
	}
	slices.SortStableFunc(mine, func(x, y bench.Delta) int {
		return cmp.Or(cmp.Compare(metricPosition(x.Metric), metricPosition(y.Metric)),
			cmp.Compare(x.Metric, y.Metric), cmp.Compare(position(x), position(y)))
	})
	for _, d := range mine {
		row := []cell{
			rowHead(metricLabel(d.Metric), d.Metric), {Text: title(d.System)},
			side(d.Metric, d.A, d.NA), side(d.Metric, d.B, d.NB),
			optional("%.3g", d.Ratio), numeric("–"), optional("%.3f", d.P), {},
		}
		if i := position(d); i >= 0 {
			row[1].Text = both[i].label()
		}
		if d.RatioLow != nil && d.RatioHigh != nil {
			row[5].Text = fmt.Sprintf("%.3g – %.3g", *d.RatioLow, *d.RatioHigh)
		}
		if d.P != nil {
			row[7].Text = "no difference shown"
			if *d.P < 0.001 {
				row[6].Text = "< 0.001"
			}
			if d.Differs {
				row[7].Text = "differs"
			}
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func side(metric string, v *float64, n int) cell {
	c := numeric("–")
	if v != nil {
		c.Text = quantity(metric, *v)
		if n > 0 {
			c.Sub = fmt.Sprintf("n = %d", n)
		}
	}
	return c
}

func optional(format string, v *float64) cell {
	if v == nil {
		return numeric("–")
	}
	return numeric(fmt.Sprintf(format, *v))
}
