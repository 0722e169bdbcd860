package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vms"
)

// Code is the kind of an error, for programs. The set may grow.
type Code string

// The codes, and what a caller does about each.
const (
	CodeInvalid         Code = "invalid"         // change the argument
	CodeUnauthenticated Code = "unauthenticated" // give a valid token
	CodeDenied          Code = "denied"          // the session lacks a capability
	CodeNotFound        Code = "not_found"       // no such sandbox, process, snapshot, image or file
	CodeGone            Code = "gone"            // it existed; the cause says when and why it ended
	CodeConflict        Code = "conflict"        // not in this state: an edit that matches no text, a key used for something else
	CodeBudget          Code = "budget"          // Error.Budget says what is left and when there is more
	CodeUnsupported     Code = "unsupported"     // this system cannot; the remedy names those that can
	CodeUnavailable     Code = "unavailable"     // no system here, or the runtime is shutting down
	CodeCannotRun       Code = "cannot_run"      // no such program, or not executable
	CodePermission      Code = "permission"      // refused by the sandbox's own file system
	CodeNoSpace         Code = "no_space"        // the host has run out of disk or memory
	CodeCancelled       Code = "cancelled"       // the caller's context ended
	CodeInternal        Code = "internal"        // a fault of aether or of the system below
)

// Error is the error of every operation. Its texts are fit to be shown to an agent of any tenant.
type Error struct {
	Code Code `json:"code"`
	// Op is what was tried: "create", "run", ...
	Op string `json:"op"`
	// Sandbox is the runtime's ID of the sandbox; may be empty.
	Sandbox string `json:"sandbox,omitempty"`
	// Cause is what went wrong.
	Cause string `json:"cause"`
	// Remedy is the next step; may be empty.
	Remedy string `json:"remedy,omitempty"`
	// Budget is set with CodeBudget.
	Budget *BudgetRefusal `json:"budget,omitempty"`

	// Err is what lies beneath, for errors.Is; it may hold paths of the host and is never shown.
	Err error `json:"-"`
}

// BudgetRefusal says which budget stood in the way.
type BudgetRefusal struct {
	// Of is "session" or "tenant".
	Of       string   `json:"of"`
	Resource Resource `json:"resource"`
	// Limit, Used, Left and Wanted are in the unit of Resource.
	Limit  int64 `json:"limit"`
	Used   int64 `json:"used"`
	Left   int64 `json:"left"`
	Wanted int64 `json:"wanted"`
	// More is when some of it is given back without anybody doing anything: the end of the window, or
	// the next sandbox to be reaped. Nil means that only killing a sandbox, or removing what is kept, helps, or nothing does.
	More *time.Time `json:"more,omitempty"`
}

// Error is one line: "run: sb4k2mq7: not_found: no such sandbox (list shows those you have)".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Sandbox != "" {
		b.WriteString(": " + e.Sandbox)
	}
	b.WriteString(": " + string(e.Code))
	if e.Cause != "" {
		b.WriteString(": " + e.Cause)
	}
	if e.Remedy != "" {
		b.WriteString(" (" + e.Remedy + ")")
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// CodeOf is the code of an error of this package, and CodeInternal for any other.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

func refuse(code Code, op, remedy, cause string, args ...any) *Error {
	return &Error{Code: code, Op: op, Cause: fmt.Sprintf(cause, args...), Remedy: remedy}
}

// translate turns any error but nil into an *Error.
func (r *Runtime) translate(op, id string, err error) error {
	if err == nil {
		return nil
	}
	return r.typed(op, id, err)
}

// typed is the *Error of an error that is not nil, without what must not leave the host.
func (r *Runtime) typed(op, id string, err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		if e.Sandbox == "" && id != "" || e.Op == "" {
			c := *e
			c.Sandbox, c.Op = firstOf(c.Sandbox, id), firstOf(c.Op, op)
			return &c
		}
		return e
	}
	e := &Error{Code: codeOf(err), Op: op, Sandbox: id, Cause: err.Error(), Err: err}
	if s, ok := errors.AsType[*sandbox.Error](err); ok {
		e.Cause, e.Remedy = s.Err.Error(), s.Remedy
		if s.Detail != "" {
			e.Cause += ": " + s.Detail
		}
		if s.System != "" {
			e.Cause = s.System + ": " + e.Cause
		}
	}
	if e.Remedy == "" {
		e.Remedy = remedyFor(e.Code)
	}
	scrub := r.scrub
	if e.Code == CodeUnavailable { // that is about the host
		scrub = r.scrubHost
	}
	e.Cause, e.Remedy = scrub(e.Cause), scrub(e.Remedy)
	return e
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func codeOf(err error) Code {
	for _, m := range []struct {
		is   error
		code Code
	}{
		// A cancelled call often fails with something else besides.
		{context.Canceled, CodeCancelled},
		{context.DeadlineExceeded, CodeCancelled},
		{sandbox.ErrDead, CodeGone},
		{sandbox.ErrClosed, CodeGone},
		{sandbox.ErrInvalid, CodeInvalid},
		{sandbox.ErrUnsupported, CodeUnsupported},
		{sandbox.ErrUnavailable, CodeUnavailable},
		{sandbox.ErrCannotRun, CodeCannotRun},
		{sandbox.ErrNoSpace, CodeNoSpace},
		{fs.ErrNotExist, CodeNotFound},
		{fs.ErrPermission, CodePermission},
		{fs.ErrExist, CodeConflict},
	} {
		if errors.Is(err, m.is) {
			return m.code
		}
	}
	if _, ok := errors.AsType[*vms.UnknownNameError](err); ok {
		return CodeInvalid
	}
	return CodeInternal
}

func remedyFor(code Code) string {
	switch code {
	case CodeGone:
		return "create another sandbox"
	case CodeUnavailable:
		return "`aether doctor` tells what this host lacks"
	case CodeNoSpace:
		return "kill sandboxes that are not needed, or remove snapshots"
	}
	return ""
}
