// Package load puts many agents of several tenants on one runtime at the same time, over MCP and HTTP, and
// looks at what must hold meanwhile: nobody sees what is another's, the control plane's own time beside the
// driver's is short, the process does not grow, and nothing is left at the end.
//
// Every agent plants a secret in its sandbox, works, and tries the IDs of others. Every answer that any of
// them gets is searched for secrets that are not its own.
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aethervm/aether/internal/bench/agenthost"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/sandbox"
)

// Config says what Run does. Driver, Image, StateDir, Sessions, Tenants and Duration are needed.
type Config struct {
	// Driver is the system; the caller closes it.
	Driver sandbox.Driver
	Image  sandbox.Image
	// StateDir is an absolute path, for the runtime.
	StateDir string
	// Sessions are as many agents, each with a session, a connection and a sandbox of its own; Tenants, 2 at
	// least, share them out.
	Sessions, Tenants int
	// Duration is how long the agents work, counted from when the first of them begins.
	Duration time.Duration
	// Ramp is the time over which the agents begin, evenly; it is part of Duration.
	Ramp time.Duration
	// Think is the mean time between two calls of an agent.
	Think time.Duration
	// MemoryMiB of each sandbox; 0 means the default.
	MemoryMiB int
	// Every is the time between two looks at the process; 0 means 5 s.
	Every time.Duration
	// Operations and Memory get the raw samples as CSV, with a head line; nil discards them.
	Operations, Memory io.Writer
	// Log is told what goes on; nil means nobody is.
	Log func(format string, args ...any)
}

// faultsKept bounds the list of a Report; the others are counted.
const faultsKept = 50

// run is one run.
type run struct {
	Config
	host    *agenthost.Host
	agents  []*agent
	watch   *watch
	calls   atomic.Int64
	tried   atomic.Int64 // IDs of others
	leaks   atomic.Int64
	started time.Time

	mu     sync.Mutex
	faults []string
	more   int
}

// Run does it. The error is of what kept it from being done; what was found is in the report. When ctx ends
// it ends early, with an error.
func Run(ctx context.Context, cfg Config) (report *Report, err error) {
	if cfg.Sessions < cfg.Tenants || cfg.Tenants < 2 || cfg.Duration <= 0 || cfg.Driver == nil {
		return nil, errors.New("load: it takes a driver, a duration, two tenants and a session for each of them")
	}
	if cfg.Log == nil {
		cfg.Log = func(string, ...any) {}
	}
	if cfg.Every == 0 {
		cfg.Every = 5 * time.Second
	}
	before := look()
	r := &run{Config: cfg}
	r.host, err = agenthost.Open(ctx, agenthost.Config{Driver: cfg.Driver, Image: cfg.Image, StateDir: cfg.StateDir})
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	r.watch = newWatch(cfg.Operations, cfg.Memory)
	r.watch.start(time.Now(), cfg.Duration)
	r.host.Runtime.Observe(r.watch)
	err = r.work(ctx)
	closing := time.Now()
	closeErr := r.host.Close()
	cfg.Log("closed in %v", time.Since(closing).Round(time.Millisecond))
	if err = errors.Join(err, closeErr, r.watch.err()); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	report = r.report()
	r.leftovers(ctx, report, before)
	return report, nil
}

// work has the agents work, until the time is over.
func (r *run) work(ctx context.Context) error {
	tokens := make([]string, r.Tenants)
	for i := range tokens {
		var err error
		if _, tokens[i], err = r.host.Tenant(ctx, fmt.Sprintf("tenant%d", i), runtime.Budget{}); err != nil {
			return err
		}
	}
	for i := range r.Sessions {
		r.agents = append(r.agents, newAgent(r, i, i%r.Tenants))
	}
	r.started = time.Now()
	ctx, cancel := context.WithTimeout(ctx, r.Duration+closeLimit)
	defer cancel()
	until, stop := context.WithTimeout(ctx, r.Duration)
	defer stop()
	var wg sync.WaitGroup
	for i, a := range r.agents {
		wg.Go(func() {
			if pause(until, r.Ramp*time.Duration(i)/time.Duration(r.Sessions)) {
				a.live(ctx, until, tokens[a.tenant])
			}
		})
	}
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	tick := time.NewTicker(r.Every)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
			r.watch.sample(look())
			if n%12 == 11 {
				r.Log("%v: %d calls", time.Since(r.started).Round(time.Second), r.calls.Load())
			}
		case <-ended:
			if until.Err() == nil || ctx.Err() != nil {
				return fmt.Errorf("it ended after %v: %w", time.Since(r.started), context.Cause(ctx))
			}
			return nil
		}
	}
}

// closeLimit bounds what an agent does when its time is over.
const closeLimit = 5 * time.Minute

// leftovers looks for what the run should have taken away.
func (r *run) leftovers(ctx context.Context, report *Report, before state) {
	swept, err := r.Driver.Sweep(ctx)
	if err != nil {
		report.Left = append(report.Left, "the driver cannot look for leftovers: "+err.Error())
	}
	if swept > 0 {
		report.Left = append(report.Left, fmt.Sprintf("%d sandboxes", swept))
	}
	// Snapshots belong to tenants and outlive a runtime: the agents have removed theirs.
	saved, err := filepath.Glob(filepath.Join(r.StateDir, "snapshots", "*"))
	if len(saved) > 0 || err != nil {
		report.Left = append(report.Left, fmt.Sprintf("%d snapshots", len(saved)))
	}
	// Connections and timers take a moment to end.
	var now state
	for range 50 {
		if now = look(); now.goroutines <= before.goroutines+slack && now.files <= before.files+slack {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	report.Left = append(report.Left, fmt.Sprintf("goroutines: %d, before %d; open files: %d, before %d",
		now.goroutines, before.goroutines, now.files, before.files))
}

// slack is what a driver may keep for the next sandboxes, in goroutines and files.
const slack = 10

// fault takes note of what must not be.
func (r *run) fault(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.Log("fault: %s", text)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.faults) == faultsKept {
		r.more++
		return
	}
	r.faults = append(r.faults, text)
}

// pause waits, and tells whether the time was not over before.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
