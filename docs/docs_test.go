// Package docs holds the project's pages; its test keeps them from naming what is not there.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPagesNameRealTests looks up every test that a page rests on, the specification above all.
func TestPagesNameRealTests(t *testing.T) {
	var code strings.Builder
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") && !strings.Contains(path, "sandboxtest") {
			return err
		}
		content, err := os.ReadFile(path)
		code.Write(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	// A name that ends in dots is the beginning of several.
	name := regexp.MustCompile(`\b((?:Test|Fuzz)[A-Z]\w+)(\.\.\.)?|\b(S(?:/\w+)+)`)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		names := name.FindAllStringSubmatch(string(text), -1)
		if page == "SPECIFICATION.md" && len(names) < 30 {
			t.Fatalf("only %d names of tests found", len(names))
		}
		for _, m := range names {
			wanted := []string{"func " + m[1] + "("}
			switch {
			case m[3] != "": // a subtest of the suite is the last element, as a string
				wanted = nil
				for elem := range strings.SplitSeq(strings.TrimPrefix(m[3], "S/"), "/") {
					wanted = append(wanted, `"`+elem+`"`)
				}
			case m[2] != "":
				wanted = []string{"func " + m[1]}
			}
			for _, w := range wanted {
				if !strings.Contains(code.String(), w) {
					t.Errorf("%s names %s, but there is no %s", page, m[0], w)
				}
			}
		}
	}
}

// TestLinksLead checks the relative links of all pages.
func TestLinksLead(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("checklists/*.md")
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)#:]+)\)`)
	for _, page := range append(append(pages, more...), "../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
}
