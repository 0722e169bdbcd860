package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/runtime"
)

// maxDiffFile bounds a file that is compared by lines.
const maxDiffFile = 1 << 20

// diffFile shows the lines of a file that differ.
func (a *app) diffFile(ctx context.Context, c *client.Client, from, to, name string) error {
	var texts [2]string
	var missing [2]bool
	for i, id := range []string{from, to} {
		var err error
		if texts[i], missing[i], err = fileText(ctx, c, id, name); err != nil {
			return err
		}
	}
	if missing[0] && missing[1] {
		return notFound(fs.ErrNotExist, "`aether diff A B` lists what differs", "%s is in neither", name)
	}
	if texts[0] == texts[1] && missing[0] == missing[1] {
		return nil
	}
	if isBinary(texts[0]) || isBinary(texts[1]) {
		if err := a.printf("Binary files %s:%s and %s:%s differ\n", from, quoted(name), to, quoted(name)); err != nil {
			return err
		}
		return exitWith(exitFailed)
	}
	label := func(i int, id string) string {
		if missing[i] {
			return "/dev/null"
		}
		return id + ":" + quoted(name)
	}
	if err := a.printf("%s", terminalText(udiff.Unified(label(0, from), label(1, to), texts[0], texts[1]))); err != nil {
		return err
	}
	return exitWith(exitFailed)
}

// fileText is what a file holds, or that it is not there.
func fileText(ctx context.Context, c *client.Client, id, name string) (text string, missing bool, err error) {
	var b bytes.Buffer
	err = c.Download(ctx, id, name, &bounded{w: &b, left: maxDiffFile})
	if e, ok := errors.AsType[*runtime.Error](err); ok && e.Code == runtime.CodeNotFound {
		if _, err := c.Sandbox(ctx, id); err != nil { // it is the sandbox that is not there
			return "", false, err
		}
		return "", true, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("%s:%s: %w", id, quoted(name), err)
	}
	return b.String(), false, nil
}

// bounded refuses more than so many bytes.
type bounded struct {
	w    *bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, failed(nil, "`aether cp` copies it", "the file has more than %d bytes", maxDiffFile)
	}
	return b.w.Write(p)
}

func isBinary(s string) bool { return strings.ContainsRune(s, 0) || !utf8.ValidString(s) }

// terminalText is text of a sandbox, with what could steer a terminal made visible.
func terminalText(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r < 0x20: // a picture of it
			return 0x2400 + r
		case r == 0x7f:
			return 0x2421
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
