package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"gonum.org/v1/plot/plotter"

	"github.com/aethervm/aether/internal/bench"
	"github.com/aethervm/aether/vms"
)

func buildAxis(r *bench.Results, axis vms.Axis, with []measured) (axisSection, error) {
	text := axisTexts[axis]
	s := axisSection{ID: axis.String(), Title: text.title, Text: text.text}
	if !slices.Contains(r.Axes, bench.Axis(axis.String())) {
		s.Notes = append(s.Notes, "This axis was not asked for in this run.")
	}
	plots, err := seriesPlots(r, text.prefix, with)
	if err != nil {
		return s, err
	}
	s.Plots = plots
	if t, ok := metricsTable(text, with); ok {
		s.Tables = append(s.Tables, t)
	}
	switch axis {
	case vms.Density:
		fig, err := densityPlot(r, with)
		if err != nil {
			return s, err
		}
		s.Plots = slices.Concat(fig, s.Plots)
	case vms.Isolation:
		systems := probedSystems(r, with)
		bombs, err := bombPlots(systems)
		if err != nil {
			return s, err
		}
		s.Plots = append(s.Plots, bombs...)
		s.Tables = append(s.Tables, probeTables(systems)...)
	case vms.AgentControl:
		s.Tables = append(s.Tables, jobTables(r, with)...)
	}
	if t, ok := statsTable(r, text, with); ok {
		s.Tables = append(s.Tables, t)
	}
	for _, m := range with {
		for _, note := range m.Notes {
			if strings.HasPrefix(note, text.prefix) {
				s.Notes = append(s.Notes, m.label()+": "+note)
			}
		}
	}
	return s, nil
}

// seriesPlots draws every series of times of an axis, with a row for each system that has it.
func seriesPlots(r *bench.Results, prefix string, with []measured) ([]figure, error) {
	names := map[string]bool{}
	for _, m := range with {
		plottable(m.System, prefix, names)
	}
	var figures []figure
	for _, name := range sortedSeries(names) {
		var rows []strip
		unit := ""
		for _, m := range with {
			if values := r.Values(m.id, name); len(values) > 0 {
				rows = append(rows, strip{m.label(), m.color, values})
				unit = m.Stats[name].Unit
			}
		}
		fig, ok, err := stripFigure(name, unit, rows)
		if err != nil {
			return nil, err
		}
		if ok {
			figures = append(figures, fig)
		}
	}
	return figures, nil
}

// plottable adds the names of the series of s that are worth a plot: times, and the density's slope.
func plottable(s *bench.System, prefix string, names map[string]bool) {
	for name, stat := range s.Stats {
		if strings.HasPrefix(name, prefix) && (stat.Unit == "ms" || name == "density.idle") {
			names[name] = true
		}
	}
}

// stripFigure draws one series; ok is false if there is nothing to draw.
func stripFigure(series, unit string, rows []strip) (fig figure, ok bool, err error) {
	text := seriesTextOf(series)
	svg, err := stripPlot(describeStrips(text.title, unit, rows), unitName(unit), rows)
	return figure{Title: text.title, Caption: text.caption, SVG: svg}, svg != "", err
}

// describeStrips says a plot in words.
func describeStrips(title, unit string, rows []strip) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, every sample. Medians:", title)
	for i, row := range rows {
		if sorted := slices.Sorted(slices.Values(finite(row.values))); len(sorted) > 0 {
			if i > 0 {
				b.WriteString(";")
			}
			fmt.Fprintf(&b, " %s %s %s of %d", row.label, number(quantile(sorted, 0.5)), shortUnit(unit), len(sorted))
		}
	}
	return b.String()
}

func seriesTextOf(name string) seriesText {
	if t, ok := seriesTexts[name]; ok {
		return t
	}
	return seriesText{title: name}
}

// sortedSeries puts series in the order of the metrics that are computed from them.
func sortedSeries(names map[string]bool) []string {
	position := func(name string) int {
		i := slices.IndexFunc(metricLabels, func(m struct{ name, label string }) bool {
			return strings.HasPrefix(m.name, name+".") || strings.HasPrefix(m.name, name+"_")
		})
		if i < 0 {
			return len(metricLabels)
		}
		return i
	}
	return slices.SortedFunc(maps.Keys(names), func(a, b string) int {
		return cmp.Or(cmp.Compare(position(a), position(b)), cmp.Compare(a, b))
	})
}

// densitySeries holds the host's memory in use by the number of idle sandboxes, which is the
// sample's Index.
const densitySeries = "density.total"

func densityPlot(r *bench.Results, with []measured) ([]figure, error) {
	var lines []line
	words := "Memory of the host against the number of idle sandboxes."
	for _, m := range with {
		l := line{label: m.label(), color: m.color}
		for _, s := range r.Samples {
			if s.System == m.id && s.Name == densitySeries && s.Kind == bench.KindValue && !s.Interrupted {
				l.points = append(l.points, plotter.XY{X: float64(s.Index), Y: s.Value})
			}
		}
		if len(l.points) > 0 {
			lines = append(lines, l)
			words += fmt.Sprintf(" %s: %s MiB each.", l.label, number(m.Metrics["density.idle_mib"]))
		}
	}
	svg, err := linePlot(words, "idle sandboxes", "MiB of host memory", lines)
	if err != nil || svg == "" {
		return nil, err
	}
	return []figure{{
		Title:   "Memory against the number of sandboxes",
		Caption: "Every reading of every round, with the least-squares line: memory of the system's processes, daemons included, and of the kernel.",
		SVG:     svg,
	}}, nil
}

// metricsTable has a row for each metric that any system has.
func metricsTable(text axisText, with []measured) (table, bool) {
	t := table{Title: "Figures", Head: head("Metric"),
		Text: "Below a median: the number of samples and its 95% confidence interval."}
	if text.prefix == axisTexts[vms.Isolation].prefix || text.prefix == axisTexts[vms.AgentControl].prefix {
		t.Text = "" // these have no medians
	}
	for _, m := range with {
		t.Head = append(t.Head, headCell{Text: m.label(), Numeric: true})
	}
	names := map[string]bool{}
	for _, m := range with {
		for name := range m.Metrics {
			if strings.HasPrefix(name, text.prefix) {
				names[name] = true
			}
		}
	}
	for _, name := range sortedMetrics(names) {
		row := []cell{rowHead(metricLabel(name), name)}
		for _, m := range with {
			c := numeric("–")
			if v, ok := m.Metrics[name]; ok {
				c.Text, c.Sub = quantity(name, v), spread(m, name)
			}
			row = append(row, c)
		}
		t.Rows = append(t.Rows, row)
	}
	return t, len(t.Rows) > 0
}

// spread says how many samples a median is from, and its confidence interval.
func spread(m measured, metric string) string {
	series, unit, _ := cutLast(metric, "_")
	series, isMedian := strings.CutSuffix(series, ".p50")
	s, ok := m.Stats[series]
	switch {
	case !ok || unit == "count" || unit == "ratio":
		return ""
	case !isMedian && strings.Contains(metric, ".p9"):
		return ""
	case s.N < 2:
		return ""
	}
	return fmt.Sprintf("n = %d, %s – %s", s.N, number(s.P50Low), number(s.P50High))
}

func metricPosition(name string) int {
	i := slices.IndexFunc(metricLabels, func(m struct{ name, label string }) bool { return m.name == name })
	if i < 0 {
		return len(metricLabels)
	}
	return i
}

func sortedMetrics(names map[string]bool) []string {
	return slices.SortedFunc(maps.Keys(names), func(a, b string) int {
		return cmp.Or(cmp.Compare(metricPosition(a), metricPosition(b)), cmp.Compare(a, b))
	})
}

func metricLabel(name string) string {
	if i := metricPosition(name); i < len(metricLabels) {
		return metricLabels[i].label
	}
	return name
}

// quantity writes a metric's value with the unit that its name ends in.
func quantity(metric string, v float64) string {
	_, unit, ok := cutLast(metric, "_")
	if !ok || unit == "ratio" || unit == "count" {
		return number(v)
	}
	return number(v) + " " + shortUnit(unit)
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func shortUnit(unit string) string {
	switch unit {
	case "mib":
		return "MiB"
	case "bytes":
		return "B"
	case "ratio", "count":
		return ""
	}
	return unit
}

func unitName(unit string) string {
	switch unit {
	case "ms":
		return "milliseconds"
	case "mib":
		return "MiB"
	}
	return unit
}

// statsTable describes every series of samples of an axis.
func statsTable(r *bench.Results, text axisText, with []measured) (table, bool) {
	t := table{
		Title: "Distributions", Fold: true,
		Text: "n counts the samples, failed the rounds without one. The interval of the median holds with 95% confidence. The 99th percentile of fewer than 100 samples is their maximum.",
		Head: numericHead("Series", "System", "n", "failed", "min", "p50", "p50, 95% interval", "p95", "p99", "max"),
	}
	t.Head[1].Numeric = false
	names := map[string]bool{}
	for _, m := range with {
		for name := range m.Stats {
			if strings.HasPrefix(name, text.prefix) {
				names[name] = true
			}
		}
	}
	for _, name := range sortedSeries(names) {
		for _, m := range with {
			s, ok := m.Stats[name]
			if !ok {
				continue
			}
			unit := shortUnit(s.Unit)
			if unit != "" {
				unit = " " + unit
			}
			t.Rows = append(t.Rows, []cell{
				rowHead(name, ""), {Text: m.label()},
				numeric(number(float64(s.N))), numeric(number(float64(s.Failed))),
				numeric(number(s.Min)), numeric(number(s.P50) + unit),
				numeric(number(s.P50Low) + " – " + number(s.P50High)),
				numeric(number(s.P95)), numeric(number(s.P99)), numeric(number(s.Max)),
			})
		}
	}
	return t, len(t.Rows) > 0
}
