package report

import "html/template"

// The types in this file are what the page's template shows. All text in them is untrusted and is
// escaped by html/template; only plots are markup, and renderSVG vouches for them.

type page struct {
	Title, Lead string
	Style       template.CSS
	Warnings    []string
	Facts       []fact
	Nav         []link
	AxisNames   []string
	Ranking     []rankRow
	Axes        []axisSection
	RubricText  string
	Evidence    []table
	// Tables come before the axes, in a comparison.
	Tables  []table
	Absent  []absentSystem
	Method  []string
	Version string
}

type fact struct{ Name, Value string }

type link struct{ ID, Title string }

type rankRow struct {
	Title, Version, Accelerator string
	// Emulated marks a system whose guest ran under software emulation.
	Emulated bool
	Color    template.CSS
	Fitness  string
	Scores   []scoreCell

	fitness float64
	known   int // how many axes have a score
}

type scoreCell struct {
	Axis    string
	Known   bool
	Text    string
	Percent string
}

type axisSection struct {
	ID, Title, Text string
	Plots           []figure
	Tables          []table
	Notes           []string
}

type figure struct {
	Title, Caption string
	SVG            template.HTML
}

// table is any table but the ranking.
type table struct {
	Title, Text string
	Class       string
	// Fold hides the table until it is opened.
	Fold bool
	Head []headCell
	Rows [][]cell
}

type headCell struct {
	Text    string
	Numeric bool
}

type cell struct {
	Text   string
	Sub    string // second line, small
	Mark   string // a word in a coloured box: "better", "worse"
	Class  string // "n" for numbers, "better", "worse", "unknown"
	Header bool
}

type absentSystem struct{ Title, Reason, Remedy string }

func head(texts ...string) []headCell {
	cells := make([]headCell, len(texts))
	for i, t := range texts {
		cells[i] = headCell{Text: t}
	}
	return cells
}

// numericHead is a first column of words and further ones of numbers.
func numericHead(first string, rest ...string) []headCell {
	cells := head(append([]string{first}, rest...)...)
	for i := range cells[1:] {
		cells[i+1].Numeric = true
	}
	return cells
}

func rowHead(text, sub string) cell { return cell{Text: text, Sub: sub, Header: true} }

func numeric(text string) cell { return cell{Text: text, Class: "n"} }
