package report

import (
	"fmt"

	"github.com/aethervm/aether/internal/bench"
	"github.com/aethervm/aether/vms"
)

// evidence shows, for each system and axis, every component of the rubric: what was measured, what
// it earned, and what is missing.
func evidence(r *bench.Results, with []measured) (text string, tables []table) {
	text = "An axis score is the weighted sum of its components. A component without a figure is a gap: it earns nothing, since unknown is not good. " +
		"docs/RUBRIC.md says why each scale is what it is."
	if r.RubricVersion != vms.RubricVersion {
		text += fmt.Sprintf(" These scores are by rubric %s; the components below are recomputed by rubric %s and may differ.",
			r.RubricVersion, vms.RubricVersion)
	}
	for _, m := range with {
		t := table{
			Title: m.label(), Fold: true,
			Head: head("Component", "Value", "Scale from 0 to 1", "Score", "Weight", "Adds"),
		}
		for i := range t.Head {
			t.Head[i].Numeric = i > 0
		}
		for _, axis := range vms.Axes() {
			t.Rows = append(t.Rows, axisRows(m, axis)...)
		}
		tables = append(tables, t)
	}
	return text, tables
}

func axisRows(m measured, axis vms.Axis) [][]cell {
	score, known := m.Axes[bench.Axis(axis.String())]
	total := cell{Text: "not measured", Class: "n total"}
	if known {
		total.Text = fmt.Sprintf("%.3f", score)
	}
	name := rowHead(axisTexts[axis].title, "")
	name.Class = "total"
	blank := cell{Class: "total"}
	rows := [][]cell{{name, blank, blank, blank, blank, total}}
	for _, c := range vms.Explain(axis, m.Metrics) {
		row := []cell{
			rowHead(metricLabel(c.Metric), c.Metric),
			{Text: "gap", Class: "n gap"},
			numeric(scale(c)),
			numeric(fmt.Sprintf("%.3f", c.Score)),
			numeric(fmt.Sprintf("%.2f", c.Weight)),
			numeric(fmt.Sprintf("%.3f", c.Weight*c.Score)),
		}
		if c.Value != nil {
			row[1] = numeric(quantity(c.Metric, *c.Value))
		}
		rows = append(rows, row)
	}
	return rows
}

func scale(c vms.Component) string {
	s := number(c.Worst) + " … " + quantity(c.Metric, c.Best)
	if c.Log {
		s += ", log"
	}
	return s
}
