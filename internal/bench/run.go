package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

const (
	probeLimit  = time.Minute
	sweepLimit  = 2 * time.Minute
	warmupLimit = 10 * time.Minute
	// warmups is how often the untimed first sandbox of a system is tried.
	warmups = 2
	// grace is what a driver gets to return after its context has ended, and to close sandboxes.
	// One that does not come back is not called again.
	grace = time.Minute
)

// Run measures what cfg says and returns what its results directory then holds.
//
// A step that fails is recorded and does not stop the others. When ctx ends, the sandboxes are
// closed, the summary of what there is is written, and Run returns both it and an error that wraps
// the context's; calling Run again with the same Config goes on from there. So it does after the
// process was killed: completed steps are never repeated.
func Run(ctx context.Context, cfg Config) (*Results, error) {
	start := time.Now()
	if err := cfg.fill(ctx); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	if err := checkOut(cfg.Out); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	dir, err := openDirectory(cfg.Out)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	b := &bench{cfg: cfg, dir: dir, start: start, drivers: map[string]sandbox.Driver{}, hung: map[string]bool{}}
	r, err := b.run(ctx)
	if err := errors.Join(err, dir.close()); err != nil {
		return r, fmt.Errorf("bench: %w", err)
	}
	return r, nil
}

// bench is one run.
type bench struct {
	cfg     Config
	dir     *directory
	start   time.Time
	plan    plan
	drivers map[string]sandbox.Driver
	scratch *scratch
	// hung holds the systems whose driver has not come back from a call.
	hung map[string]bool

	mu     sync.Mutex // guards what follows, and that events come one at a time
	ledger *ledger
	done   int
	total  int
}

func (b *bench) run(ctx context.Context) (*Results, error) {
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	slots := schedule(b.plan)
	b.total = len(slots)
	for _, at := range slots {
		if !b.ledger.due(at) {
			b.done++
		}
	}
	if b.done > 0 {
		b.event(Event{Kind: EventResumed, Text: fmt.Sprintf("%d of %d steps were measured before", b.done, b.total)})
	}
	err := b.measure(ctx, slots)
	if b.scratch != nil {
		err = errors.Join(err, b.scratch.close())
	}
	r, finishErr := b.finish()
	err = errors.Join(err, finishErr)
	switch {
	case ctx.Err() != nil && b.done < b.total:
		if err == nil {
			err = context.Cause(ctx)
		}
		err = fmt.Errorf("%w: %s keeps the %d of %d steps that are done; run the same command again to go on from there",
			err, b.cfg.Out, b.done, b.total)
	case err == nil:
		b.event(Event{Kind: EventDone, Text: plural(b.total, "step")})
	}
	return r, err
}

// prepare asks what is there, clears what dead processes have left, and reads what was measured.
func (b *bench) prepare(ctx context.Context) error {
	infos := map[string]planInfo{}
	for _, d := range b.cfg.Drivers {
		name := d.System()
		info, err := b.probe(ctx, d)
		if err != nil {
			return err
		}
		infos[name] = planInfo{
			Available: info.Available, Version: info.Version, Accelerator: info.Accelerator,
			Reason: info.Reason, Remedy: info.Remedy, Notes: info.Notes,
		}
		if !info.Available {
			text := info.Reason
			if info.Remedy != "" {
				text += "; " + info.Remedy
			}
			b.event(Event{Kind: EventAbsent, System: name, Text: text})
		}
		b.drivers[name] = d
	}
	if err := b.matchPlan(infos); err != nil {
		return err
	}
	samples, err := b.dir.openSamples()
	if err != nil {
		return err
	}
	b.ledger = newLedger(samples)
	for _, name := range b.plan.available() {
		if err := b.sweep(ctx, name); err != nil {
			return err
		}
	}
	b.scratch, err = newScratch(ctx, b.cfg.Scratch, b.cfg.Drivers)
	return err
}

// probe asks a driver whether its system is there. One that does not answer is not.
func (b *bench) probe(ctx context.Context, d sandbox.Driver) (sandbox.Info, error) {
	answer := make(chan sandbox.Info, 1) // a late answer must not be written to what is read meanwhile
	err := b.bounded(ctx, d.System(), probeLimit, func(ctx context.Context) error {
		answer <- d.Probe(ctx)
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return sandbox.Info{}, context.Cause(ctx)
	case err != nil:
		return sandbox.Info{Reason: err.Error(), Remedy: "see what `aether doctor` says about it"}, nil
	}
	return <-answer, nil
}

// sweep removes what killed processes have left of a system. That it fails is no reason not to
// measure.
func (b *bench) sweep(ctx context.Context, system string) error {
	var n int
	err := b.bounded(ctx, system, sweepLimit, func(ctx context.Context) (err error) {
		n, err = b.drivers[system].Sweep(ctx)
		return err
	})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		b.event(Event{Kind: EventFailure, System: system, Text: "remove what killed processes have left: " + err.Error()})
	case n > 0:
		b.event(Event{Kind: EventSwept, System: system, Text: fmt.Sprintf("removed %s that killed processes had left", plural(n, "sandbox"))})
	}
	return nil
}

// measure executes all slots that are due.
func (b *bench) measure(ctx context.Context, slots []slot) error {
	warm := map[string]bool{}
	for _, at := range slots {
		if b.ledger.due(at) && !warm[at.system] {
			warm[at.system] = true
			if err := b.warmup(ctx, at); err != nil {
				return err
			}
		}
	}
	for _, at := range slots {
		if !b.ledger.due(at) {
			continue
		}
		if drop, yes := b.ledger.giveUp(at); yes {
			if err := b.drop(drop); err != nil {
				return err
			}
			if !b.ledger.due(at) {
				continue
			}
		}
		if err := b.execute(ctx, at); err != nil {
			return err
		}
	}
	return nil
}

// warmup brings a system's caches and daemons to where every later sandbox finds them.
func (b *bench) warmup(ctx context.Context, at slot) error {
	b.event(Event{Kind: EventWarmup, System: at.system, Step: "warmup"})
	var err error
	for range warmups {
		s := b.session(at, 0)
		s.emit = func(Sample) error { return nil }
		if err = b.inSession(ctx, s, warmupLimit, stepPython); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if b.hung[at.system] {
			break
		}
	}
	return b.drop(Sample{System: at.system, Round: at.round, Kind: KindDropped, Error: "its first sandbox failed: " + err.Error()})
}

// execute does one step on one system and records how it ended. Only what concerns the whole bench
// is returned as an error.
func (b *bench) execute(ctx context.Context, at slot) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	b.event(Event{Kind: EventStep, System: at.system, Step: at.step, Round: at.round})
	st := stepByName(at.step)
	attempt := b.ledger.attempts[at]
	s := b.session(at, attempt)
	err := b.inSession(ctx, s, st.limit, st.run)
	if err := s.end(); err != nil {
		return err
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx) // no end mark: the step is done again as a whole
	}
	end := func(sample Sample) error {
		sample.System, sample.Step, sample.Round, sample.Attempt = at.system, at.step, at.round, attempt
		return b.append(sample)
	}
	if err != nil && !isNoAbility(err) {
		if err := end(Sample{Kind: KindFailure, Error: err.Error()}); err != nil {
			return err
		}
	}
	if err := errors.Join(end(Sample{Kind: KindDone}), b.dir.sync()); err != nil {
		return err
	}
	switch {
	case b.hung[at.system]:
		return b.drop(Sample{System: at.system, Round: at.round, Kind: KindDropped, Error: "its driver does not come back from " + at.step})
	case isNoAbility(err):
		return b.drop(Sample{System: at.system, Step: at.step, Round: at.round, Kind: KindDropped, Note: err.Error()})
	}
	return nil
}

func (b *bench) session(at slot, attempt int) *session {
	return &session{
		driver: b.drivers[at.system], spec: b.cfg.Spec, info: b.plan.Systems[at.system],
		memory: b.cfg.memory, prober: b.cfg.prober, surfer: b.cfg.surfer, scratch: b.scratch,
		files: b.dir,
		emit: func(s Sample) error {
			s.System, s.Step, s.Round, s.Attempt = at.system, at.step, at.round, attempt
			return b.append(s)
		},
	}
}

// inSession runs f in s within limit, then closes s, whatever came of it.
func (b *bench) inSession(ctx context.Context, s *session, limit time.Duration, f func(context.Context, *session) error) error {
	system := s.driver.System()
	err := b.bounded(ctx, system, limit, func(ctx context.Context) error { return f(ctx, s) })
	_ = s.end() // a call that was left alone must not go on recording
	if closeErr := b.bounded(context.WithoutCancel(ctx), system, cleanupLimit, s.close); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("close: %w", closeErr))
	}
	return err
}

// bounded runs f with a limit. A call that does not return although its context has ended is left
// alone, and its system is marked as hung.
func (b *bench) bounded(ctx context.Context, system string, limit time.Duration, f func(context.Context) error) error {
	timeout := fmt.Errorf("took more than %v: %w", limit, context.DeadlineExceeded)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, timeout)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- f(ctx) }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case err := <-result:
		if err != nil && errors.Is(context.Cause(ctx), timeout) {
			return errors.Join(timeout, err)
		}
		return err
	case <-late.C:
		b.hung[system] = true
		return fmt.Errorf("no answer %v after the call was cancelled: %w", grace, context.Cause(ctx))
	}
}

// append writes a line of the sample file and tells of it.
func (b *bench) append(s Sample) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Time = time.Now().UTC()
	if err := b.dir.append(s); err != nil {
		return err
	}
	before := b.ledger.due(s.slot())
	b.ledger.add(s)
	e := Event{System: s.System, Step: s.Step, Round: s.Round}
	switch s.Kind {
	case KindValue:
		e.Kind, e.Name, e.Value, e.Unit, e.Text = EventSample, s.Name, s.Value, s.Unit, s.Note
	case KindFailure:
		e.Kind, e.Text = EventFailure, s.Error
	case KindDropped:
		e.Kind, e.Text = EventDropped, s.reason()
	case KindDone:
		if before {
			b.done++
		}
		return nil
	}
	b.tell(e)
	return nil
}

// drop gives up a step, or a system, and counts what is thereby no longer due as done.
func (b *bench) drop(s Sample) error {
	err := b.append(s)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = 0
	for _, at := range schedule(b.plan) {
		if !b.ledger.due(at) {
			b.done++
		}
	}
	return err
}

func (b *bench) event(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tell(e)
}

func (b *bench) tell(e Event) {
	if b.cfg.Progress != nil {
		e.Done, e.Total, e.Elapsed = b.done, b.total, time.Since(b.start)
		b.cfg.Progress(e)
	}
}

// finish writes what is computed from the samples.
func (b *bench) finish() (*Results, error) {
	samples, err := loadSamples(b.cfg.Out)
	if err != nil {
		return nil, err
	}
	r := summarise(b.plan, samples)
	err = errors.Join(b.dir.writeJSON(summaryName, r), b.dir.writeFile(textName, benchText(r, samples)))
	if err != nil {
		return nil, err
	}
	return load(b.cfg.Out)
}

// checkOut refuses a directory that holds anything else than results.
func checkOut(out string) error {
	entries, err := os.ReadDir(out)
	if err != nil || len(entries) == 0 {
		return nil // what is wrong with it, making it will tell
	}
	ours := func(e os.DirEntry) bool { return e.Name() == planName || e.Name() == "."+planName+".tmp" }
	if slices.ContainsFunc(entries, ours) {
		return nil
	}
	return fmt.Errorf("%s is neither empty nor a results directory: choose another --out", out)
}
