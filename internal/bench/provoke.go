package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

// provocation causes an error on purpose.
type provocation struct {
	name string
	// kinds are the sentinels of which one is expected.
	kinds []error
	// mayAccept: a system that does not refuse breaks no promise.
	mayAccept bool
	do        func(ctx context.Context, a *agent) error
}

func provocations() []provocation {
	return []provocation{
		{"missing-program", []error{sandbox.ErrCannotRun}, false, func(ctx context.Context, a *agent) error {
			_, err := a.sb.Exec(ctx, sandbox.Cmd{Args: []string{"no-such-program"}})
			return err
		}},
		{"missing-file", []error{fs.ErrNotExist}, false, func(ctx context.Context, a *agent) error {
			_, err := readAll(ctx, a.sb, "/no/such/file")
			return err
		}},
		{"path-escape", []error{sandbox.ErrInvalid}, false, func(ctx context.Context, a *agent) error {
			_, err := readAll(ctx, a.sb, "/tmp/../../etc/shadow")
			return err
		}},
		{"remove-root", []error{sandbox.ErrInvalid, fs.ErrPermission, fs.ErrInvalid}, false, func(ctx context.Context, a *agent) error {
			return a.sb.Remove(ctx, "/")
		}},
		{"invalid-spec", []error{sandbox.ErrInvalid}, false, func(ctx context.Context, a *agent) error {
			return a.createOdd(ctx, func(s *sandbox.Spec) { s.VCPUs = -1 })
		}},
		// As much as a spec may ask for, and more than hosts have. A system that only sets a limit
		// may well accept it.
		{"absurd-memory", []error{sandbox.ErrInvalid, sandbox.ErrNoSpace, sandbox.ErrUnsupported}, true, func(ctx context.Context, a *agent) error {
			return a.createOdd(ctx, func(s *sandbox.Spec) { s.MemoryMiB = sandbox.MaxMemoryMiB })
		}},
		{"closed-sandbox", []error{sandbox.ErrClosed}, false, func(ctx context.Context, a *agent) error {
			sb := a.sb
			a.discard()
			_, err := run(ctx, sb, "true")
			return err
		}},
	}
}

// createOdd asks for a sandbox that should be refused.
func (a *agent) createOdd(ctx context.Context, change func(*sandbox.Spec)) error {
	spec := a.s.spec
	change(&spec)
	sb, err := a.s.driver.Create(ctx, spec)
	if err != nil {
		return err
	}
	return errors.Join(a.s.own(sb), sb.Close())
}

// provoke causes one error and looks at what a program can learn from it.
func (a *agent) provoke(ctx context.Context, p provocation) (ProvokedError, error) {
	if _, err := a.box(ctx); err != nil {
		return ProvokedError{}, err
	}
	var m meter
	limited, cancel := context.WithTimeoutCause(sandbox.WithObserver(ctx, m.observe), provokeLimit, fmt.Errorf("no answer within %v", provokeLimit))
	defer cancel()
	err := p.do(limited, a)
	if ctx.Err() != nil {
		return ProvokedError{}, context.Cause(ctx)
	}
	r := judgeError(p, err)
	r.Native = m.native()
	return r, nil
}

// judgeError finds out what is missing of a typed error.
func judgeError(p provocation, err error) ProvokedError {
	r := ProvokedError{Name: p.name, Accepted: err == nil && p.mayAccept}
	if err == nil {
		if !r.Accepted {
			r.Missing = []string{"error"}
		}
		return r
	}
	r.Text, r.Kind = err.Error(), kindOf(err)
	var typed *sandbox.Error
	if errors.As(err, &typed) {
		r.Detail, r.Remedy = typed.Detail, typed.Remedy
	} else {
		r.Missing = append(r.Missing, "type")
	}
	if !slices.ContainsFunc(p.kinds, func(kind error) bool { return errors.Is(err, kind) }) {
		r.Missing = append(r.Missing, "kind")
	}
	if strings.TrimSpace(r.Detail) == "" {
		r.Missing = append(r.Missing, "detail")
	}
	if strings.TrimSpace(r.Remedy) == "" {
		r.Missing = append(r.Missing, "remedy")
	}
	r.Typed = len(r.Missing) == 0
	return r
}

// kindOf names the sentinel that err wraps.
func kindOf(err error) string {
	for _, kind := range []error{
		sandbox.ErrUnavailable, sandbox.ErrUnsupported, sandbox.ErrInvalid, sandbox.ErrClosed, sandbox.ErrDead,
		sandbox.ErrCannotRun, sandbox.ErrNoSpace, fs.ErrNotExist, fs.ErrPermission, fs.ErrExist, fs.ErrInvalid,
		context.DeadlineExceeded, context.Canceled,
	} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	return ""
}
