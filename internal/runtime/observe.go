package runtime

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// Observer is told what the runtime does as it happens: metrics. Its methods are called concurrently,
// by whoever runs the operation, and must neither block nor call the runtime.
type Observer interface {
	// Operation has come to its end, allowed or not.
	Operation(Operation)
	// DriverCall has come to its end.
	DriverCall(DriverCall)
}

// Operation is one that has ended. Its texts are of small fixed sets, fit for labels.
type Operation struct {
	// Op is what it was: "create", "run", ..., or what the runtime did by itself: "pause", "reap", "expire".
	Op string
	// Result is "ok" or the Code of its error.
	Result string
	// Refused is set if a budget stood in the way.
	Refused *BudgetRefusal
	// Total is from its beginning to its end. Elsewhere is the part of it in which at least one call of a driver
	// was going on, with the programs that it ran, or a poll waited for its program: what is left is the
	// runtime's own.
	Total, Elsewhere time.Duration
}

// DriverCall is one call of a system's driver.
type DriverCall struct {
	System string
	// Call is "create", "exec", "read", "write", "list", "stat", "remove", "pause", "resume", "snapshot",
	// "restore", "remove snapshot", "create template", "fork template", "remove template", "fork", "diff", "stats", "egress log" or "close".
	Call   string
	Failed bool
	// Duration of an exec has that of the program in it.
	Duration time.Duration
}

// Totals are figures of the whole runtime, of all tenants.
type Totals struct {
	Sandboxes []SandboxTotal
	// OutputBytes is what programs have written since Open.
	OutputBytes int64
	// AuditEntries is how many there are in the audit log.
	AuditEntries int64
}

// SandboxTotal counts the sandboxes of one system in one state.
type SandboxTotal struct {
	System    string
	State     State
	Count     int
	MemoryMiB int64 // that they may use
}

// Totals counts what there is now.
func (r *Runtime) Totals() Totals {
	t := Totals{OutputBytes: r.written.Load(), AuditEntries: r.audit.entries()}
	type key struct {
		system string
		state  State
	}
	at := map[key]int{}
	for _, b := range r.boxes() {
		k := key{b.driver.System(), StateRunning}
		if b.isPaused() {
			k.state = StatePaused
		}
		i, ok := at[k]
		if !ok {
			i = len(t.Sandboxes)
			at[k] = i
			t.Sandboxes = append(t.Sandboxes, SandboxTotal{System: k.system, State: k.state})
		}
		t.Sandboxes[i].Count++
		t.Sandboxes[i].MemoryMiB += int64(b.spec.MemoryMiB)
	}
	return t
}

// entries is how many the log has.
func (a *auditLog) entries() int64 {
	if a == nil {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.head.Seq
}

// Observe has o told of what begins from now on, in place of whom was told before.
func (r *Runtime) Observe(o Observer) { r.observer.Store(&o) }

// observe tells the observer of an operation.
func (r *Runtime) observe(op string, start time.Time, elsewhere time.Duration, err error) {
	to := r.observer.Load()
	if to == nil {
		return
	}
	o := Operation{Op: op, Result: result(err), Total: time.Since(start)}
	o.Elsewhere = min(elsewhere, o.Total)
	if e, ok := errors.AsType[*Error](err); ok {
		o.Refused = e.Budget
	}
	(*to).Operation(o)
}

// stopwatch adds up the time in which at least one of several things goes on. It may be used
// concurrently; nil measures nothing.
type stopwatch struct {
	mu      sync.Mutex
	running int
	since   time.Time
	sum     time.Duration
}

func (w *stopwatch) start() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running++; w.running == 1 {
		w.since = time.Now()
	}
}

func (w *stopwatch) stop() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running--; w.running == 0 {
		w.sum += time.Since(w.since)
	}
}

// add adds what was measured by somebody else.
func (w *stopwatch) add(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sum += d
}

// total is what has added up, with what still goes on.
func (w *stopwatch) total() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running > 0 {
		return w.sum + time.Since(w.since)
	}
	return w.sum
}

type stopwatchKey struct{}

// elsewhere is the stopwatch of the operation that ctx belongs to, or nil.
func elsewhere(ctx context.Context) *stopwatch {
	w, _ := ctx.Value(stopwatchKey{}).(*stopwatch)
	return w
}

// drive measures a call of a driver on behalf of the operation that ctx belongs to, if any. The function that it
// returns is to be called when the driver has returned; err points at what it returned.
func (r *Runtime) drive(ctx context.Context, system, call string) func(err *error) {
	to := r.observer.Load()
	if to == nil {
		return func(*error) {}
	}
	w, start := elsewhere(ctx), time.Now()
	w.start()
	return func(err *error) {
		w.stop()
		(*to).DriverCall(DriverCall{System: system, Call: call, Failed: *err != nil, Duration: time.Since(start)})
	}
}

// kill ends a box within an operation.
func (c *call) kill(b *box, why *Error) error {
	err := b.kill(why)
	c.elsewhere.add(b.closeTime)
	return err
}

// measured is a sandbox whose calls are measured. Abilities beyond those of every sandbox are not passed on.
type measured struct {
	sandbox.Sandbox
	b *box
}

func (m measured) Exec(ctx context.Context, cmd sandbox.Cmd) (exit sandbox.Exit, err error) {
	defer m.b.drive(ctx, "exec")(&err)
	return m.Sandbox.Exec(ctx, cmd)
}

func (m measured) ReadFile(ctx context.Context, name string, w io.Writer) (err error) {
	defer m.b.drive(ctx, "read")(&err)
	return m.Sandbox.ReadFile(ctx, name, w)
}

func (m measured) WriteFile(ctx context.Context, name string, r io.Reader, perm fs.FileMode) (err error) {
	defer m.b.drive(ctx, "write")(&err)
	return m.Sandbox.WriteFile(ctx, name, r, perm)
}

func (m measured) ReadDir(ctx context.Context, name string) (list []sandbox.FileInfo, err error) {
	defer m.b.drive(ctx, "list")(&err)
	return m.Sandbox.ReadDir(ctx, name)
}

func (m measured) Stat(ctx context.Context, name string) (info sandbox.FileInfo, err error) {
	defer m.b.drive(ctx, "stat")(&err)
	return m.Sandbox.Stat(ctx, name)
}

func (m measured) Remove(ctx context.Context, name string) (err error) {
	defer m.b.drive(ctx, "remove")(&err)
	return m.Sandbox.Remove(ctx, name)
}

func (b *box) drive(ctx context.Context, call string) func(*error) {
	return b.s.r.drive(ctx, b.driver.System(), call)
}
