// Package report writes results of package bench as one HTML page that needs nothing else: no
// network, no script, no other file.
//
// Results hold text that came out of sandboxes, and a results directory may come from a stranger:
// all of it is escaped, and the page's content security policy lets nothing run or load. The same
// results always give the same page, byte for byte.
package report

import (
	"bytes"
	_ "embed" // for the template and the style sheet
	"fmt"
	"html/template"
	"io"

	"github.com/aethervm/aether/internal/bench"
)

//go:embed page.html.tmpl
var pageTemplate string

//go:embed style.css
var styleSheet string

// Write writes the page about r to w. Nothing is written unless the page is whole.
func Write(w io.Writer, r *bench.Results) error {
	p, err := build(r)
	if err != nil {
		return fmt.Errorf("build report of %s: %w", r.Dir, err)
	}
	return render(w, "page", p)
}

// Compare writes a page about the differences from a to b to w.
func Compare(w io.Writer, a, b *bench.Results) error {
	p, err := buildComparison(a, b)
	if err != nil {
		return fmt.Errorf("compare %s with %s: %w", a.Dir, b.Dir, err)
	}
	return render(w, "comparison", p)
}

func render(w io.Writer, name string, p page) error {
	t, err := template.New("report").Parse(pageTemplate)
	if err != nil {
		return fmt.Errorf("report template: %w", err)
	}
	p.Style = template.CSS(styleSheet)
	var buf bytes.Buffer
	if err := t.ExecuteTemplate(&buf, name, p); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	_, err = w.Write(buf.Bytes())
	return err
}
