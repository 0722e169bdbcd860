package runtime

import (
	"context"
	"errors"
	"slices"
	"time"
	"unicode/utf8"
)

// call is one operation from its beginning to its end: it is counted, for Drain, and written to the
// audit log whether it was allowed or not.
type call struct {
	r       *Runtime
	s       *Session // may be nil
	op      string
	tenant  string
	sandbox string
	start   time.Time
	what    map[string]string
	refused error  // set if the runtime or the session takes no calls any more
	done    func() // what end does besides; may be nil
	begun   bool   // a program has begun: to do it again would be something else
	quiet   bool   // it changes nothing and is not worth an entry if it succeeds
	// elsewhere is the time that is not the runtime's own.
	elsewhere stopwatch
}

// call begins an operation that belongs to no session. end must follow.
func (r *Runtime) call(op string) *call {
	c := &call{r: r, op: op, start: time.Now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if r.draining {
		c.refused = refuse(CodeUnavailable, op, "try again when it has been started again", "the runtime is shutting down")
	}
	return c
}

// call begins an operation that needs a capability, and returns a context that ends with the session
// too. On error, as without one, end must follow.
func (s *Session) call(ctx context.Context, op, sandbox string, need Capability) (context.Context, *call, error) {
	c := s.r.call(op)
	c.s, c.tenant, c.sandbox = s, s.tenant.ID, sandbox
	s.mu.Lock()
	if s.closed == nil {
		s.calls.Add(1)
		c.after(s.calls.Done)
	} else if c.refused == nil {
		c.refused = s.closed
	}
	s.mu.Unlock()
	if c.refused == nil && !slices.Contains(s.capabilities, need) {
		c.refused = refuse(CodeDenied, op, "ask whoever opened the session for it", "this session has no capability %q", need)
	}
	if c.refused == nil && ctx.Err() != nil {
		c.refused = ctx.Err()
	}
	if s.r.observer.Load() != nil {
		ctx = context.WithValue(ctx, stopwatchKey{}, &c.elsewhere)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.life, func() { cancel(context.Cause(s.life)) })
	c.after(func() { stop(); cancel(nil) })
	return ctx, c, c.refused
}

// after has end call f first.
func (c *call) after(f func()) {
	prev := c.done
	c.done = func() {
		f()
		if prev != nil {
			prev()
		}
	}
}

// note adds a particular to the audit entry.
func (c *call) note(key, value string) {
	if value == "" {
		return
	}
	if c.what == nil {
		c.what = map[string]string{}
	}
	c.what[key] = clip(value, 256)
}

// end writes the entry and makes *err an *Error.
func (c *call) end(err *error) {
	if c.done != nil {
		defer c.done()
	}
	*err = c.r.translate(c.op, c.sandbox, *err)
	if *err != nil || !c.quiet {
		e := AuditEntry{Time: time.Now(), Tenant: c.tenant, Op: c.op, Sandbox: clip(c.sandbox, 64), What: c.what,
			Result: result(*err), DurationMS: time.Since(c.start).Milliseconds()}
		if c.s != nil {
			e.Session = c.s.id
		}
		if f, ok := errors.AsType[*Error](*err); ok {
			e.Cause = clip(f.Cause, 256)
		}
		c.r.audit.append(e)
	}
	c.r.observe(c.op, c.start, c.elsewhere.total(), *err)
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.calls--; c.r.calls == 0 && c.r.idle != nil {
		close(c.r.idle)
		c.r.idle = nil
	}
}

func result(err error) string {
	if err == nil {
		return "ok"
	}
	return string(CodeOf(err))
}

// clip cuts a text off, at a character, and makes it valid UTF-8.
func clip(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		if len(s) > 0 && s[len(s)-1] >= utf8.RuneSelf {
			s = s[:len(s)-1]
		}
	}
	return validText(s)
}
