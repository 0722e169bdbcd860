package report

import (
	"html/template"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// line is one system of a line plot: its raw points, and the least-squares line through them.
type line struct {
	label  string
	color  int
	points plotter.XYs
}

const lineHeight = 300

// linePlot draws points with a fitted line a system, named at the line's end.
func linePlot(title, xLabel, yLabel string, lines []line) (template.HTML, error) {
	p := newPlot()
	p.X.Label.Text, p.Y.Label.Text = xLabel, yLabel
	p.X.Tick.Marker, p.Y.Tick.Marker = linearTicks{}, linearTicks{}
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color, grid.Horizontal.Width = colorGrid, 1
	p.Add(grid)
	var ends lineEnds
	maxX, maxY, minY := 0.0, 0.0, 0.0
	for _, l := range lines {
		l.points = slices.DeleteFunc(slices.Clone(l.points), func(xy plotter.XY) bool {
			return !(math.Abs(xy.X) < drawable && math.Abs(xy.Y) < drawable)
		})
		if len(l.points) == 0 {
			continue
		}
		xs, ys := make([]float64, len(l.points)), make([]float64, len(l.points))
		for i, xy := range l.points {
			xs[i], ys[i] = xy.X, xy.Y
		}
		lowX, highX := slices.Min(xs), slices.Max(xs)
		maxX, maxY, minY = max(maxX, highX), max(maxY, slices.Max(ys)), min(minY, slices.Min(ys))
		at := func(float64) float64 { return stat.Mean(ys, nil) }
		if highX > lowX {
			alpha, beta := stat.LinearRegression(xs, ys, nil, false)
			at = func(x float64) float64 { return alpha + beta*x }
		}
		fit := &plotter.Line{
			XYs:       plotter.XYs{{X: lowX, Y: at(lowX)}, {X: highX, Y: at(highX)}},
			LineStyle: draw.LineStyle{Color: systemColor(l.color, solid), Width: 1.5},
		}
		dots := &plotter.Scatter{
			XYs:        l.points,
			GlyphStyle: draw.GlyphStyle{Color: systemColor(l.color, dotted), Radius: 3, Shape: draw.CircleGlyph{}},
		}
		p.Add(fit, dots)
		ends = append(ends, end{label: l.label, color: l.color, x: highX, y: at(highX)})
	}
	if len(ends) == 0 {
		return "", nil
	}
	p.X.Min, p.X.Max = 0, max(maxX, 1)*ends.room(p)
	p.Y.Min, p.Y.Max = minY, minY+max(maxY-minY, 1)*1.06
	p.Add(ends)
	return renderSVG(p, lineHeight, title)
}

type end struct {
	label string
	color int
	x, y  float64
}

// lineEnds writes the systems' names at the right ends of their lines, apart from each other.
type lineEnds []end

const (
	endSize = 12 // of type, and the names' distance from their lines' ends
	endGap  = 14
	// yChrome is about what the vertical axis takes of a plot's width.
	yChrome = 70
)

func (ends lineEnds) style(p *plot.Plot) text.Style {
	style := text.Style{
		Font: p.X.Label.TextStyle.Font, XAlign: text.XLeft, YAlign: text.YCenter, Handler: plot.DefaultTextHandler,
	}
	style.Font.Size = endSize
	return style
}

// room is the factor by which the horizontal axis must be longer than the data for the names to fit.
func (ends lineEnds) room(p *plot.Plot) float64 {
	widest := vg.Length(0)
	for _, e := range ends {
		widest = max(widest, ends.style(p).Width(e.label))
	}
	share := float64(widest+2*endSize) / (plotWidth - yChrome)
	return 1 / (1 - min(share, 0.6))
}

// Plot implements plot.Plotter.
func (ends lineEnds) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	sorted := slices.Clone(ends)
	slices.SortStableFunc(sorted, func(a, b end) int {
		switch {
		case a.y < b.y:
			return -1
		case a.y > b.y:
			return 1
		}
		return 0
	})
	floor := vg.Length(math.Inf(-1))
	for _, e := range sorted {
		at := max(y(e.y), floor+endGap)
		floor = at
		style := ends.style(p)
		style.Color = systemColor(e.color, solid)
		c.FillText(style, vg.Point{X: x(e.x) + endSize/2, Y: at}, e.label)
	}
}
