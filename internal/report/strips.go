package report

import (
	"html/template"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// strip is one row of a strip plot: every raw value of one system.
type strip struct {
	label  string
	color  int
	values []float64
}

// strips draws its rows from top to bottom. In each row the upper half has a dot for every value,
// the lower half a line from the least to the greatest, a box from the first to the third quartile,
// and the median with its value.
type strips []strip

const (
	stripHeight = 50 // of a row
	stripChrome = 46 // axis, ticks and label
	stripDots   = 13 // the dots' part of a row
	medianLabel = 11 // size of type
)

// stripPlot draws one series of several systems. It returns nothing if there is nothing to draw.
func stripPlot(title, axis string, rows []strip) (template.HTML, error) {
	low, high := math.Inf(1), math.Inf(-1)
	var drawn strips
	for _, row := range rows {
		row.values = finite(row.values)
		if len(row.values) == 0 {
			continue
		}
		low, high = min(low, slices.Min(row.values)), max(high, slices.Max(row.values))
		drawn = append(drawn, row)
	}
	if len(drawn) == 0 {
		return "", nil
	}
	p := newPlot()
	setX(p, low, high)
	p.X.Label.Text = axis
	if useLog(low, high) {
		p.X.Label.Text += " (logarithmic)"
	}
	labels := make(plot.ConstantTicks, len(drawn))
	for i, row := range drawn {
		labels[i] = plot.Tick{Value: float64(len(drawn) - 1 - i), Label: row.label}
	}
	p.Y.Tick.Marker = labels
	p.Y.Tick.Label.Color = colorInk
	p.Y.Tick.LineStyle.Width, p.Y.LineStyle.Width = 0, 0
	p.Y.Min, p.Y.Max = -0.5, float64(len(drawn))-0.5
	p.Add(verticalGrid(), drawn)
	return renderSVG(p, float64(stripChrome+stripHeight*len(drawn)), title)
}

// Plot implements plot.Plotter.
func (s strips) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	for i, row := range s {
		middle := y(float64(len(s) - 1 - i))
		for j, v := range row.values {
			// A low-discrepancy sequence spreads the dots evenly and is the same in every run.
			_, spread := math.Modf(float64(j+1) * math.Phi)
			c.DrawGlyph(draw.GlyphStyle{Color: systemColor(row.color, dotted), Radius: 2, Shape: draw.CircleGlyph{}},
				vg.Point{X: x(v), Y: middle + 4 + vg.Length(spread)*stripDots})
		}
		sorted := slices.Sorted(slices.Values(row.values))
		line := func(width vg.Length, x0, y0, x1, y1 vg.Length) {
			c.StrokeLine2(draw.LineStyle{Color: systemColor(row.color, solid), Width: width}, x0, y0, x1, y1)
		}
		base := middle - 5
		line(1, x(sorted[0]), base, x(sorted[len(sorted)-1]), base)
		left, right := x(quantile(sorted, 0.25)), x(quantile(sorted, 0.75))
		c.FillPolygon(systemColor(row.color, pale), []vg.Point{
			{X: left, Y: base - 4}, {X: right, Y: base - 4}, {X: right, Y: base + 4}, {X: left, Y: base + 4},
		})
		median := quantile(sorted, 0.5)
		line(2.5, x(median), base-5, x(median), base+5)
		s.label(c, x(median), base-6, number(median))
	}
}

// label writes a median below its mark, moved sideways where it would leave the plot.
func (s strips) label(c draw.Canvas, x, y vg.Length, label string) {
	style := text.Style{
		Color: colorInk, Font: font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, medianLabel),
		XAlign: text.XCenter, YAlign: text.YTop, Handler: plot.DefaultTextHandler,
	}
	half := style.Width(label) / 2
	x = max(c.Min.X+half, min(x, c.Max.X-half))
	c.FillText(style, vg.Point{X: x, Y: y}, label)
}

func verticalGrid() *plotter.Grid {
	g := plotter.NewGrid()
	g.Horizontal.Width = 0
	g.Vertical.Color, g.Vertical.Width, g.Vertical.Dashes = colorGrid, 1, nil
	return g
}

// finite returns the values that can be drawn, in their order.
func finite(values []float64) []float64 {
	var out []float64
	for _, v := range values {
		if math.Abs(v) < drawable { // false for NaN
			out = append(out, v)
		}
	}
	return out
}

// quantile is by nearest rank: a value that was really measured.
func quantile(sorted []float64, q float64) float64 {
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[max(0, min(i, len(sorted)-1))]
}
