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

// TestSpecificationNamesRealTests looks up every test that the specification rests on.
func TestSpecificationNamesRealTests(t *testing.T) {
	spec, err := os.ReadFile("SPECIFICATION.md")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
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
	names := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+|\bS(?:/\w+)+`).FindAllString(string(spec), -1)
	if len(names) < 30 {
		t.Fatalf("only %d names of tests found", len(names))
	}
	for _, name := range names {
		// A test is a function; a subtest of the suite is the last element, as a string.
		wanted := []string{"func " + name + "("}
		if rest, ok := strings.CutPrefix(name, "S/"); ok {
			wanted = nil
			for elem := range strings.SplitSeq(rest, "/") {
				wanted = append(wanted, `"`+elem+`"`)
			}
		}
		for _, w := range wanted {
			if !strings.Contains(code.String(), w) {
				t.Errorf("SPECIFICATION.md names %s, but there is no %s", name, w)
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
