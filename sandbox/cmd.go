package sandbox

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Cmd is a program to run in a sandbox, by argv: no shell is involved.
type Cmd struct {
	// Args is the program and its arguments. A program without a slash is looked up in the PATH of
	// the command's environment, inside the sandbox.
	Args []string
	// Env is added to the sandbox's environment, as KEY=value; the last value of a key wins.
	Env []string
	// Dir is the working directory, absolute; empty means "/".
	Dir string
	// Stdin is read until EOF and fed to the program; nil means an empty standard input. A program
	// that ends without reading all of it is no error. Exec may return before a blocked Read on
	// Stdin does.
	Stdin io.Reader
	// Stdout and Stderr receive the program's output as it is produced; nil discards it. An error
	// of Write kills the program and is returned by Exec.
	Stdout, Stderr io.Writer
	// Timeout kills the program and its descendants when it has run so long; 0 means no limit.
	Timeout time.Duration
	// Terminal gives the program a terminal for its standard streams; nil means none. A system that has none
	// answers ErrUnsupported before it starts anything.
	Terminal *Terminal
}

// Exit says how a program ended.
type Exit struct {
	// Code is the exit code, 0..255; -1 when a signal ended the program.
	Code int `json:"code"`
	// Signal is the number of the signal that ended the program; 0 if none did.
	Signal int `json:"signal,omitempty"`
	// TimedOut tells that Cmd.Timeout ran out; Signal is then SIGKILL.
	TimedOut bool `json:"timed_out,omitempty"`
	// Duration is the wall time as seen by the caller, from the request to the reply.
	Duration time.Duration `json:"duration_ns"`
}

// Success tells whether the program ended by itself with exit code 0.
func (e Exit) Success() bool { return e.Code == 0 && e.Signal == 0 && !e.TimedOut }

// String is a short form for messages: "exit 2", "signal 9", "timed out".
func (e Exit) String() string {
	switch {
	case e.TimedOut:
		return "timed out"
	case e.Signal != 0:
		return fmt.Sprintf("signal %d", e.Signal)
	}
	return fmt.Sprintf("exit %d", e.Code)
}

// DefaultPath is the PATH of a command when neither image nor caller sets one.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Check returns an error that wraps ErrInvalid if c cannot be run anywhere.
func (c Cmd) Check() error {
	switch {
	case len(c.Args) == 0 || c.Args[0] == "":
		return invalid("args", c.Args, "a program and its arguments")
	case slices.ContainsFunc(c.Args, func(a string) bool { return strings.ContainsRune(a, 0) }):
		return invalid("args", fmt.Sprintf("%q", c.Args), "without NUL bytes")
	case c.Timeout < 0:
		return invalid("timeout", c.Timeout, "zero or positive")
	}
	if c.Dir != "" {
		if err := CheckPath(c.Dir); err != nil {
			return err
		}
	}
	if c.Terminal != nil {
		if err := c.Terminal.Check(); err != nil {
			return err
		}
	}
	return checkEnv("env", c.Env)
}

// Environ merges environments of KEY=value, later ones over earlier ones, and sets PATH and HOME
// where none does. The result is sorted by key, with one entry a key.
func Environ(layers ...[]string) []string {
	last := map[string]string{"PATH": DefaultPath, "HOME": "/root"}
	for _, layer := range layers {
		for _, kv := range layer {
			if key, value, ok := strings.Cut(kv, "="); ok && key != "" {
				last[key] = value
			}
		}
	}
	env := make([]string, 0, len(last))
	for key, value := range last {
		env = append(env, key+"="+value)
	}
	slices.Sort(env)
	return env
}
