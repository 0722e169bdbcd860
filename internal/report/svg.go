package report

import (
	"bytes"
	"fmt"
	"html"
	"html/template"
	"image/color"
	"regexp"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Plots are drawn at this width, in SVG user units, and scaled by the page to the room there is.
const plotWidth = 440

// A plot is drawn in stand-in colours, which inkSVG replaces by variables of the style sheet, so
// that one drawing serves light and dark. The stand-ins are near black, so that a drawing that
// escapes the replacement can still be read.
var (
	colorInk  = color.NRGBA{R: 1, G: 1, B: 1, A: 255}
	colorSoft = color.NRGBA{R: 1, G: 1, B: 2, A: 255}
	colorGrid = color.NRGBA{R: 1, G: 1, B: 3, A: 255}
)

// shade is how strongly a system's colour is applied. It is part of the stand-in colour, since what
// is drawn translucent comes out of vgsvg in another colour.
type shade uint8

const (
	solid shade = iota + 2
	dotted
	pale
)

// opacity is what the style sheet's colour is applied with.
func (s shade) opacity() string {
	switch s {
	case dotted:
		return "0.5"
	case pale:
		return "0.25"
	}
	return "1"
}

// systemColor is the stand-in for the colour of the i-th system.
func systemColor(i int, s shade) color.NRGBA {
	return color.NRGBA{R: 1, G: uint8(s), B: uint8(i % systemColors), A: 255}
}

// systemColors is how many system colours the style sheet has (--s0 and so on).
const systemColors = 8

var (
	inkPattern  = regexp.MustCompile(`(fill|stroke):#01(0[1-4])(0[0-9])\b`)
	fontPattern = regexp.MustCompile(`font-family:[^;"]*;font-variant:[^;"]*;font-weight:[^;"]*;font-style:[^;"]*;`)
	headPattern = regexp.MustCompile(`(?s)^.*?<svg [^>]*>`)
)

// renderSVG draws p. title is what a screen reader says instead of the drawing.
func renderSVG(p *plot.Plot, height float64, title string) (template.HTML, error) {
	c := vgsvg.NewWith(vgsvg.UseWH(plotWidth, vg.Length(height)))
	area := draw.New(c)
	p.Draw(draw.Crop(area, 2, -10, 2, -4))
	var buf bytes.Buffer
	if _, err := c.WriteTo(&buf); err != nil {
		return "", fmt.Errorf("draw %s: %w", title, err)
	}
	svg := buf.String()
	head := headPattern.FindString(svg)
	if head == "" {
		return "", fmt.Errorf("draw %s: not an SVG document", title)
	}
	body := svg[len(head):]
	body = fontPattern.ReplaceAllString(body, "")
	body = inkPattern.ReplaceAllStringFunc(body, variableOf)
	body = strings.ReplaceAll(body, "\n\tstyle", " style")
	head = fmt.Sprintf(`<svg class="plot" viewBox="0 0 %d %g" role="img" aria-label="%s" xmlns="http://www.w3.org/2000/svg">`,
		plotWidth, height, html.EscapeString(title))
	// Labels were escaped by vgsvg, the title here: all else is drawn by this package.
	return template.HTML(head + "\n" + body), nil
}

// variableOf gives the style sheet's variable for a stand-in colour such as "fill:#010203".
func variableOf(paint string) string {
	m := inkPattern.FindStringSubmatch(paint)
	property, kind, number := m[1], m[2][1]-'0', m[3][1:]
	if s := shade(kind); s >= solid {
		style := property + ":var(--s" + number + ")"
		if s != solid {
			style += ";" + property + "-opacity:" + s.opacity()
		}
		return style
	}
	name := "--ink"
	switch number {
	case "2":
		name = "--soft"
	case "3":
		name = "--grid"
	}
	return property + ":var(" + name + ")"
}

// newPlot is an empty plot in the page's own look.
func newPlot() *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.Transparent
	sans := font.Font{Typeface: "Liberation", Variant: "Sans"}
	style := func(s *text.Style, size vg.Length, c color.Color) {
		s.Font, s.Color = font.From(sans, size), c
	}
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		style(&axis.Label.TextStyle, 12, colorSoft)
		style(&axis.Tick.Label, 12, colorSoft)
		axis.LineStyle.Color, axis.LineStyle.Width = colorGrid, 1
		axis.Tick.LineStyle.Color, axis.Tick.LineStyle.Width = colorGrid, 1
		axis.Tick.Length = 4
		axis.Padding = 4
		axis.Label.Padding = 4
	}
	return p
}
