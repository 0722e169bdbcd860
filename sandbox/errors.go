package sandbox

import (
	"errors"
	"strings"
)

// Kinds of error, for errors.Is. Every error of a driver wraps one of these, an error of package
// io/fs (fs.ErrNotExist, fs.ErrPermission, ...) or the context's error.
var (
	// ErrUnavailable means: the system cannot be used on this host; Probe says why.
	ErrUnavailable = errors.New("system not available")
	// ErrUnsupported means: the system works, but not in the way that was asked for.
	ErrUnsupported = errors.New("not supported here")
	// ErrInvalid means: an argument can never be accepted.
	ErrInvalid = errors.New("invalid argument")
	// ErrClosed means: the sandbox was closed by this process.
	ErrClosed = errors.New("sandbox closed")
	// ErrDead means: the sandbox ended by itself, or was killed from outside.
	ErrDead = errors.New("sandbox died")
	// ErrCannotRun means: the program does not exist in the sandbox or cannot be executed.
	ErrCannotRun = errors.New("cannot run program")
	// ErrRefused means: nobody listens on the socket.
	ErrRefused = errors.New("connection refused")
	// ErrNoSpace means: disk or memory of the host ran out.
	ErrNoSpace = errors.New("no space left on host")
)

// Error is the error type of all drivers: what was tried, on what, what went wrong, what to do.
type Error struct {
	Op      string // what was tried: "create", "exec", "read", ...
	System  string // canonical name of the system; may be empty
	Sandbox string // ID; may be empty
	Err     error  // the kind; see the sentinels above
	Detail  string // what went wrong, in the system's own words where it has some
	Remedy  string // what the user can do; may be empty
}

// Error is one line: "docker: create: system not available: ...; remedy".
func (e *Error) Error() string {
	var b strings.Builder
	for _, s := range []string{e.System, e.Sandbox, e.Op} {
		if s != "" {
			b.WriteString(s)
			b.WriteString(": ")
		}
	}
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	}
	if e.Detail != "" {
		b.WriteString(": ")
		b.WriteString(e.Detail)
	}
	if e.Remedy != "" {
		b.WriteString(" (")
		b.WriteString(e.Remedy)
		b.WriteString(")")
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Closed is the error of a call on a sandbox that this process has closed; op and id may be empty.
func Closed(op, system, id string) *Error {
	return &Error{Op: op, System: system, Sandbox: id, Err: ErrClosed,
		Detail: "Close was called on it", Remedy: "create another sandbox"}
}
