package sandbox

import (
	"fmt"
	"strings"
)

// Terminal is a terminal that a program is to have, as a person's shell has: it may ask for the size, switch echo off,
// and is interrupted by the byte 0x03 in its input, all as the terminal's line discipline in the sandbox has it.
//
// It is the program's standard input, output and error: all that is written to it comes to [Cmd].Stdout, with lines
// that end in "\r\n" unless the program says otherwise, and Stderr gets nothing. The end of Stdin types the character
// that means the end of the input (0x04), unless the program has switched that off.
//
// What a program writes to a terminal can have any escape sequence in it. Who shows it on a real one trusts that
// with it.
type Terminal struct {
	// Size at the beginning. The zero value is [DefaultTerminalSize].
	Size TerminalSize
	// Resize gives new sizes while the program runs, which is told by SIGWINCH. It may be nil. Exec receives from
	// it until it returns, but not always at once, so whoever sends must be able to give up.
	Resize <-chan TerminalSize
	// Term is the value of TERM, for which the command's own Env comes first; empty is [DefaultTerm].
	Term string
}

// TerminalSize is how many characters a terminal shows, 1 to [MaxTerminalSize] each way.
type TerminalSize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// MaxTerminalSize is the most rows, and columns, that a terminal may have.
const MaxTerminalSize = 10_000

// DefaultTerm is the type of a terminal of which nothing is known.
const DefaultTerm = "xterm"

// DefaultTerminalSize is that of a terminal of which nothing is known.
func DefaultTerminalSize() TerminalSize { return TerminalSize{Rows: 24, Cols: 80} }

// String is "ROWSxCOLS".
func (s TerminalSize) String() string { return fmt.Sprintf("%dx%d", s.Rows, s.Cols) }

// Valid tells whether a terminal can have the size.
func (s TerminalSize) Valid() bool {
	return s.Rows > 0 && s.Cols > 0 && s.Rows <= MaxTerminalSize && s.Cols <= MaxTerminalSize
}

// WithDefaults is the terminal with its size and type set.
func (t Terminal) WithDefaults() Terminal {
	if t.Size == (TerminalSize{}) {
		t.Size = DefaultTerminalSize()
	}
	if t.Term == "" {
		t.Term = DefaultTerm
	}
	return t
}

// Check returns an error that wraps [ErrInvalid] if there can be no such terminal.
func (t Terminal) Check() error {
	t = t.WithDefaults()
	if !t.Size.Valid() {
		return invalid("terminal size", t.Size, fmt.Sprintf("1 to %d rows and columns", MaxTerminalSize))
	}
	if len(t.Term) > 64 || strings.ContainsFunc(t.Term, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return invalid("terminal type", fmt.Sprintf("%.64q", t.Term), "up to 64 printing ASCII characters without a space")
	}
	return nil
}

// Environment is what the command adds to a sandbox's environment: Env and, below it, the type of the terminal.
func (c Cmd) Environment() []string {
	if c.Terminal == nil {
		return c.Env
	}
	return append([]string{"TERM=" + c.Terminal.WithDefaults().Term}, c.Env...)
}
