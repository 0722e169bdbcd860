package report

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/aethervm/aether/internal/bench"
	"github.com/aethervm/aether/internal/probe"
	"github.com/aethervm/aether/internal/probe/finding"
)

// probed is a system with what its probes found.
type probed struct {
	measured
	report bench.ProbeReport
}

// probedSystems reads the probe reports. One that cannot be read is as good as none: the file may
// come from anywhere, and the metrics that were computed from it are shown in any case.
func probedSystems(r *bench.Results, with []measured) []probed {
	var out []probed
	for _, m := range with {
		p := probed{measured: m}
		if raw, ok := r.Probes[m.id]; ok && json.Unmarshal(raw, &p.report) == nil {
			out = append(out, p)
		}
	}
	return out
}

// probeTables shows every probe of every system.
func probeTables(systems []probed) []table {
	catalogue := probe.Catalogue()
	question := func(name string) string {
		if i := slices.IndexFunc(catalogue, func(p finding.Probe) bool { return p.Name == name }); i >= 0 {
			return catalogue[i].Question
		}
		return ""
	}
	var tables []table
	for _, group := range []struct {
		title, text string
		of          func(bench.ProbeReport) []finding.Finding
	}{
		{"Probes from inside", "Asked by a program in the sandbox.", func(p bench.ProbeReport) []finding.Finding { return p.Inside }},
		{"Probes from outside", "Asked of the host processes that run guest code.", func(p bench.ProbeReport) []finding.Finding { return p.Outside }},
		{"Bombs", "", func(p bench.ProbeReport) []finding.Finding { return p.Bombs }},
	} {
		t := table{Title: group.title, Text: group.text, Class: "matrix", Head: head("Probe")}
		rows := map[string]int{}
		for col, m := range systems {
			t.Head = append(t.Head, headCell{Text: m.label()})
			for _, f := range group.of(m.report) {
				*t.at(rows, f.Name, question(f.Name), col+1, len(systems)) = findingCell(f)
			}
		}
		if len(t.Rows) > 0 {
			tables = append(tables, t)
		}
	}
	if len(tables) == 0 {
		return nil
	}
	return append(tables, catalogueTable(catalogue))
}

// catalogueTable says of each probe what a better and a worse answer is.
func catalogueTable(catalogue []finding.Probe) table {
	t := table{
		Title: "What a better and a worse answer is", Fold: true,
		Text: "A probe about the kernel asks for power over the kernel that answers the guest: in a kernel of its own the guest may do as it likes.",
		Head: head("Probe", "About", "Better", "Worse"),
	}
	for _, p := range catalogue {
		t.Rows = append(t.Rows, []cell{
			rowHead(p.Name, p.Question), {Text: "the " + string(p.Scope)}, {Text: p.Better}, {Text: p.Worse},
		})
	}
	return t
}

func findingCell(f finding.Finding) cell {
	c := cell{Text: f.Value, Sub: f.Detail, Mark: "unknown", Class: "unknown"}
	switch f.Verdict {
	case finding.Better:
		c.Mark, c.Class = "better", "better"
	case finding.Worse:
		c.Mark, c.Class = "worse", "worse"
	}
	if c.Text == c.Mark {
		c.Text = ""
	}
	if c.Sub == "" && len(f.Items) > 0 {
		const shown = 12
		c.Sub = strings.Join(f.Items[:min(shown, len(f.Items))], ", ")
		if more := len(f.Items) - shown; more > 0 {
			c.Sub += " and " + number(float64(more)) + " more"
		}
	}
	return c
}

// bombPlots draws every answer of a sibling and of the host while a bomb went off beside them.
func bombPlots(systems []probed) ([]figure, error) {
	var names []string
	for _, m := range systems {
		for _, b := range m.report.Runs {
			if !slices.Contains(names, b.Name) {
				names = append(names, b.Name)
			}
		}
	}
	var figures []figure
	for _, name := range names {
		var rows []strip
		for _, m := range systems {
			for _, b := range m.report.Runs {
				if b.Name != name || b.Limit == "" {
					continue // nothing bounds it, so it was not set off
				}
				rows = append(rows,
					strip{m.label() + ", before", m.color, b.Before.All},
					strip{m.label() + ", sibling", m.color, b.Sibling.All},
					strip{m.label() + ", host", m.color, b.Host.All})
			}
		}
		title := "Bomb of " + strings.TrimPrefix(name, "bombs.")
		svg, err := stripPlot(describeStrips(title, "ms", rows), "milliseconds", rows)
		if err != nil {
			return nil, err
		}
		if svg != "" {
			figures = append(figures, figure{Title: title, SVG: svg,
				Caption: "Time of every answer: of a sibling at rest, of the sibling and of the host while the bomb went off."})
		}
	}
	return figures, nil
}
