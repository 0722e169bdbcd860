// Package agentjobs is a scripted agent, without a model, that does a fixed list of jobs through MCP alone, over
// any driver: the judge's measure of what an agent gets done on a system through one and the same surface.
//
// The server is that of package mcp, over pipes as `aether mcp` serves it and, for the jobs about budgets, over
// HTTP with tokens. Whatever the agent knows it has from the results of calls.
package agentjobs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/bench/agenthost"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/sandbox"
)

// Config says what Run works with. Driver, Image and StateDir are as in agenthost.Config.
type Config struct {
	Driver   sandbox.Driver
	Image    sandbox.Image
	StateDir string
	// MemoryMiB and VCPUs are those of every sandbox that the agent asks for; 0 is the default.
	MemoryMiB, VCPUs int
	// Done is told of each job when it has ended; nil means nobody is.
	Done func(Result)
}

// Result is what came of one job.
type Result struct {
	Name string
	// Verified says how success was told.
	Verified string
	Done     bool
	// Error says why it is not done; NoAbility, that the system does not offer what it takes.
	Error     string
	NoAbility bool
	Duration  time.Duration
	// Calls are the calls of tools that it took, as JSON.
	Calls []Exchange
}

// Exchange is one call: the arguments, and the result as it was sent.
type Exchange struct{ Request, Reply string }

// job is one thing that the agent gets done.
type job struct {
	name, verified string
	do             func(ctx context.Context, w *worker) error
}

// Run does all jobs, one after the other. That a job fails is a result; an error is of what keeps the agent from
// working at all, or of what was left behind.
func Run(ctx context.Context, cfg Config) (results []Result, err error) {
	host, err := agenthost.Open(ctx, agenthost.Config{Driver: cfg.Driver, Image: cfg.Image, StateDir: cfg.StateDir})
	if err != nil {
		return nil, fmt.Errorf("open a runtime: %w", err)
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	client, err := host.Pipe(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	return With(ctx, cfg, client, host)
}

// With does all jobs through a client. Without a host, those about budgets are left out: it takes tenants that have
// one. Of cfg it uses MemoryMiB, VCPUs and Done.
func With(ctx context.Context, cfg Config, client *agenthost.Client, host *agenthost.Host) ([]Result, error) {
	w := &worker{host: host, client: client, memory: cfg.MemoryMiB, vcpus: cfg.VCPUs}
	client.Observe(w.observe)
	var results []Result
	list := jobs()
	if host != nil {
		list = append(list, budgetJobs()...)
	}
	for _, j := range list {
		r := w.try(ctx, j)
		if ctx.Err() != nil {
			return results, context.Cause(ctx)
		}
		results = append(results, r)
		if cfg.Done != nil {
			cfg.Done(r)
		}
		if err := tidy(ctx, client); err != nil {
			return results, fmt.Errorf("after %s: %w", j.name, err)
		}
	}
	return results, nil
}

// try does one job.
func (w *worker) try(ctx context.Context, j job) Result {
	r := Result{Name: j.name, Verified: j.verified}
	ctx, p, cancel := patient(ctx, limit)
	defer cancel()
	w.patience = p
	w.take() // calls of the clearing up
	start := time.Now()
	err := j.do(ctx, w)
	r.Duration, r.Calls = time.Since(start), w.take()
	if r.Done = err == nil; !r.Done {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		r.Error = err.Error()
		r.NoAbility = errors.Is(err, errCannot) || runtime.CodeOf(err) == runtime.CodeUnsupported
	}
	return r
}

// errCannot marks what a system does not offer.
var errCannot = errors.New("the system cannot")

func cannot(what string) error { return fmt.Errorf("%w: %s", errCannot, what) }

// clearLimit bounds the removal of what a job has left.
const clearLimit = 2 * time.Minute

// tidy removes all that a session has, as an agent would.
func tidy(ctx context.Context, c *agenthost.Client) error {
	ctx, cancel := context.WithTimeout(ctx, clearLimit)
	defer cancel()
	l, err := agenthost.Call[runtime.Listing](ctx, c, "list", nil)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range l.Sandboxes {
		_, err := c.Raw(ctx, "kill", agenthost.Args{"sandbox": s.ID})
		errs = append(errs, err)
	}
	for _, s := range l.Snapshots {
		_, err := c.Raw(ctx, "snapshot", agenthost.Args{"action": "remove", "snapshot": s.ID})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Clean removes what Run has left if its process was killed: cfg.StateDir then has the records.
func Clean(ctx context.Context, cfg Config) error {
	host, err := agenthost.Open(ctx, agenthost.Config{Driver: cfg.Driver, Image: cfg.Image, StateDir: cfg.StateDir})
	if err != nil {
		return err
	}
	tenants, err := host.Runtime.Tenants(ctx)
	for _, t := range tenants {
		err = errors.Join(err, host.Runtime.RemoveTenant(ctx, t.ID))
	}
	return errors.Join(err, host.Close())
}

// worker is the agent.
type worker struct {
	host          *agenthost.Host // nil if the server is another process
	client        *agenthost.Client
	memory, vcpus int
	patience      *patience // of the job that it does

	mu    sync.Mutex
	calls []Exchange
}

func (w *worker) observe(request, reply string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, Exchange{request, reply})
}

func (w *worker) take() []Exchange {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	return calls
}

type args = agenthost.Args

// create makes a sandbox. The time that it takes to start is not the job's.
func (w *worker) create(ctx context.Context, c *agenthost.Client, more args) (string, error) {
	a := args{}
	if w.memory > 0 {
		a["memory_mib"] = w.memory
	}
	if w.vcpus > 0 {
		a["vcpus"] = w.vcpus
	}
	for k, v := range more {
		a[k] = v
	}
	start := time.Now()
	info, err := agenthost.Call[runtime.SandboxInfo](ctx, c, "create", a)
	w.patience.grant(time.Since(start))
	return info.ID, err
}

// box makes a sandbox with nothing special about it.
func (w *worker) box(ctx context.Context) (string, error) { return w.create(ctx, w.client, nil) }

// run runs a command in a sandbox, or in a fresh one if box is empty.
func (w *worker) run(ctx context.Context, box, command string, more args) (runtime.RunResult, error) {
	a := args{"command": command}
	if box != "" {
		a["sandbox"] = box
	}
	for k, v := range more {
		a[k] = v
	}
	return agenthost.Call[runtime.RunResult](ctx, w.client, "run", a)
}

// must runs a command that has to succeed, and returns what it printed.
func (w *worker) must(ctx context.Context, box, command string) (string, error) {
	res, err := w.run(ctx, box, command, nil)
	if err != nil {
		return "", err
	}
	if res.ExitCode == nil || *res.ExitCode != 0 {
		return "", fmt.Errorf("%.80q ended with %s: %.300s", command, ending(res), res.Stderr+res.Stdout)
	}
	return res.Stdout, nil
}

func ending(r runtime.RunResult) string {
	switch {
	case r.TimedOut:
		return "a time-out"
	case r.Signal != "":
		return r.Signal
	case r.ExitCode != nil:
		return fmt.Sprintf("exit code %d", *r.ExitCode)
	}
	return "no exit code"
}

func (w *worker) write(ctx context.Context, box, path, text string) error {
	_, err := w.client.Raw(ctx, "write", args{"sandbox": box, "path": path, "text": text})
	return err
}

// readResult is what the agent reads of a result of the tool read.
type readResult struct {
	Size     int64
	Mode     string
	Text     string
	Encoding string
	Next     *int64
}

func (w *worker) read(ctx context.Context, a args) (readResult, error) {
	return agenthost.Call[readResult](ctx, w.client, "read", a)
}

// code runs code in a kept interpreter.
func (w *worker) code(ctx context.Context, box, code string, more args) (runtime.CodeResult, error) {
	a := args{"code": code}
	if box != "" {
		a["sandbox"] = box
	}
	for k, v := range more {
		a[k] = v
	}
	return agenthost.Call[runtime.CodeResult](ctx, w.client, "code", a)
}

// refused is nil if err is a refusal with that code which says what to do next.
func refused(err error, code runtime.Code, doing string) error {
	e, ok := errors.AsType[*runtime.Error](err)
	switch {
	case err == nil:
		return fmt.Errorf("%s was not refused", doing)
	case !ok:
		return fmt.Errorf("%s: %w", doing, err)
	case e.Code != code:
		return fmt.Errorf("%s: refused with %s, not %s: %w", doing, e.Code, code, err)
	case e.Remedy == "" && e.Budget == nil:
		return fmt.Errorf("%s: refused without a remedy: %w", doing, err)
	}
	return nil
}

// want compares what is with what should be.
func want[T comparable](what string, got, expected T) error {
	if got != expected {
		return fmt.Errorf("%s is %s, not %s", what, shown(got), shown(expected))
	}
	return nil
}

func shown(v any) string {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%.200q", s)
	}
	return fmt.Sprint(v)
}
