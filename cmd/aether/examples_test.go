package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// commandLine finds calls of aether in a line of a page: at its beginning, behind a pipe, a variable or in $(...).
var commandLine = regexp.MustCompile(`(?:^\s*|[|;&(]\s*|lab run[^|;&]*? -- |-e?c ')(?:bin/)?aether ([^|;&()]+)`)

// quotedText is an argument, or the beginning of one, that may hold anything.
var quotedText = regexp.MustCompile(`'[^']*'?|"(?:\\.|[^"\\])*"?`)

// TestExamplesAreUnderstood looks up the commands and flags of every example, in the help of the commands and in the pages.
func TestExamplesAreUnderstood(t *testing.T) {
	texts := map[string]string{}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		texts[cmd.CommandPath()+" --help"] = cmd.Long
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(&app{out: io.Discard, err: io.Discard}))
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		texts[page] = blocks(string(text))
	}
	seen := 0
	for name, text := range texts {
		for line := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", ""), "\n") {
			if !strings.HasPrefix(line, "  ") && !strings.HasSuffix(name, ".md") {
				continue // prose
			}
			for _, m := range commandLine.FindAllStringSubmatch(line, -1) {
				seen++
				if err := understood(strings.Fields(quotedText.ReplaceAllString(m[1], "x"))); err != nil {
					t.Errorf("%s: %s: %v", name, strings.TrimSpace(m[0]), err)
				}
			}
		}
	}
	if seen < 150 {
		t.Errorf("only %d commands found", seen)
	}
}

// blocks are the blocks of code of a page.
func blocks(page string) string {
	var b strings.Builder
	in := false
	for line := range strings.SplitSeq(page, "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			in = !in
		case in, strings.HasPrefix(line, "    "):
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// understood parses the command and the flags of an example, up to the program that it runs.
func understood(words []string) error {
	cmd, rest, err := newRoot(&app{out: io.Discard, err: io.Discard}).Find(words)
	if err != nil {
		return err
	}
	for i, word := range rest {
		if word == "--" {
			rest = rest[:i]
			break
		}
	}
	for _, word := range rest {
		name, isFlag := strings.CutPrefix(strings.Trim(word, "[].,\"'`"), "-")
		if !isFlag || name == "" {
			continue
		}
		name, _, _ = strings.Cut(name, "=")
		cmd.InitDefaultHelpFlag()
		known := false
		if long, ok := strings.CutPrefix(name, "-"); ok {
			known = cmd.Flags().Lookup(long) != nil || cmd.InheritedFlags().Lookup(long) != nil
		} else {
			known = cmd.Flags().ShorthandLookup(name) != nil || cmd.InheritedFlags().ShorthandLookup(name) != nil
		}
		if !known {
			return usageError("", "%s has no flag %s", cmd.CommandPath(), word)
		}
	}
	return nil
}
