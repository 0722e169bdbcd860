package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/aethervm/aether/internal/head"
	"github.com/aethervm/aether/sandbox"
)

// copyResult is what has become of a program in one of many sandboxes.
type copyResult struct {
	Number   int    `json:"number"` // from 0
	Sandbox  string `json:"sandbox,omitempty"`
	Code     int    `json:"exit_code"`
	Signal   int    `json:"signal,omitempty"`
	TimedOut bool   `json:"timed_out,omitempty"`
	MS       int64  `json:"ms"` // how long the program has taken
	Stdout   string `json:"stdout"`
	Stderr   string `json:"stderr"`
	// Truncated says that more was written than is here.
	Truncated bool   `json:"truncated,omitempty"`
	Error     string `json:"error,omitempty"`

	err error
}

// runCopy runs the program in copy i and closes the sandbox. It keeps so many bytes of each stream.
func runCopy(ctx context.Context, i int, c templateCopy, command sandbox.Cmd, limit int) copyResult {
	out, errOut := head.New(limit), head.New(limit)
	command.Stdout, command.Stderr = out, errOut
	command.Env = append(command.Env[:len(command.Env):len(command.Env)], "AETHER_FORK="+strconv.Itoa(i))
	r := copyResult{Number: i, Sandbox: c.ID()}
	begin := time.Now()
	exit, err := c.Exec(ctx, command)
	r.MS = time.Since(begin).Milliseconds()
	r.fail(errors.Join(err, c.Close()))
	r.Code, r.Signal, r.TimedOut, r.Stdout, r.Stderr = exit.Code, exit.Signal, exit.TimedOut, out.String(), errOut.String()
	r.Truncated = out.More() || errOut.More()
	return r
}

func (r *copyResult) fail(err error) {
	if r.err = err; err != nil {
		r.Error = err.Error()
	}
}

// failure is why the program has not ended well; nil if it has.
func (r copyResult) failure() error {
	switch {
	case r.err != nil:
		return r.err
	case r.Code != 0 || r.Signal != 0 || r.TimedOut:
		return fmt.Errorf("%s: the program ended: %s", r.Sandbox, r.end())
	}
	return nil
}

// end is how the program has ended, in a word or two.
func (r copyResult) end() string {
	switch {
	case r.err != nil:
		return "failed"
	case r.TimedOut:
		return "timed out"
	case r.Signal != 0:
		return fmt.Sprintf("signal %d", r.Signal)
	}
	return fmt.Sprintf("exit %d", r.Code)
}

// lastWords is the last line of what the program has written, or the error in place of it.
func (r copyResult) lastWords() string {
	text := r.Stdout
	switch {
	case r.err != nil:
		text = r.Error
	case strings.TrimSpace(text) == "" || r.failure() != nil && strings.TrimSpace(r.Stderr) != "":
		text = r.Stderr
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// printCopies prints what the programs have written, each below its number.
func (a *app) printCopies(results []copyResult) error {
	for _, r := range results {
		if err := a.printf("== %d %s\n", r.Number, r.Sandbox); err != nil {
			return err
		}
		if _, err := io.WriteString(a.out, a.shown(r.Stdout)); err != nil {
			return err
		}
		said := r.Stderr
		if terminalOf(a.err) != nil {
			said = terminalText(said)
		}
		_, _ = io.WriteString(a.err, said) // told and not kept
	}
	return nil
}

// tableOfCopies prints a line for each copy, with the end of what its program has written.
func (a *app) tableOfCopies(results []copyResult) error {
	const widest = 60
	t := table{head: []string{"copy", "sandbox", "result", "ms", "output"}, right: map[int]bool{0: true, 3: true}}
	for _, r := range results {
		said := []rune(oneLine(r.lastWords()))
		if len(said) > widest {
			said = append(said[:widest-3], '.', '.', '.')
		}
		t.add(strconv.Itoa(r.Number), r.Sandbox, r.end(), strconv.FormatInt(r.MS, 10), string(said))
	}
	return t.write(a.out)
}

// outcome is the error of copies that failed, if there are any.
func outcome(results []copyResult) error {
	var errs []error
	for _, r := range results {
		if err := r.failure(); err != nil {
			errs = append(errs, err)
		}
	}
	switch {
	case len(errs) == 0:
		return nil
	case len(errs) < len(results):
		return &failure{copies: true, code: exitPartly, kind: "partly", message: fmt.Sprintf("%d of %d copies failed: %v", len(errs), len(results), errs[0]), err: errors.Join(errs...)}
	}
	return &failure{copies: true, code: exitFailed, kind: "failed", message: fmt.Sprintf("all of %d copies failed: %v", len(results), errs[0]), err: errors.Join(errs...)}
}
