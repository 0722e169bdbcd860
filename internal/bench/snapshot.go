package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

const (
	forks = 10
	// clockWithin is how far a clock may be off.
	clockWithin = time.Second
	// pauseHold is how long a sandbox is kept paused; the rate of ticks is taken over as long.
	pauseHold = time.Second
	// minRate is the slowest rate of ticks by which standing still can be told from slowness.
	minRate = 10.0

	witness = workDir + "/witness"
)

// stepPause finds out whether a sandbox can be paused, and its program then stands still.
func stepPause(ctx context.Context, s *session) error {
	sb, err := s.create(ctx)
	if err != nil {
		return err
	}
	pauser, ok := sb.(sandbox.Pauser)
	if !ok {
		return s.unable("a sandbox cannot be paused", "snapshot.pause")
	}
	w, err := startWorkload(ctx, sb)
	if err != nil {
		return err
	}
	held, err := holdsStill(ctx, w, pauser)
	if errors.Is(err, sandbox.ErrUnsupported) {
		return s.unable(err.Error(), "snapshot.pause")
	}
	sample := Sample{Name: "snapshot.pause", Value: ratio(held), Unit: "ratio"}
	if err == nil && !held {
		sample.Note = "the program went on while the sandbox was paused"
	}
	s.record(sample)
	return err
}

// unable records that abilities are not there, which is a 0 and no failure.
func (s *session) unable(why string, names ...string) error {
	for _, name := range names {
		s.record(Sample{Name: name, Value: 0, Unit: "ratio", Note: why})
	}
	return lacks(why)
}

func ratio(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// holdsStill counts the program's ticks around a pause. They are counted, not dated, because the
// clock of a guest may stand still with it.
func holdsStill(ctx context.Context, w *workload, p sandbox.Pauser) (bool, error) {
	rate, err := tickRate(ctx, w)
	if err != nil {
		return false, err
	}
	if rate < minRate {
		return false, fmt.Errorf("the workload makes %.1f ticks a second, too few to see a pause by", rate)
	}
	n0, err := w.ticks(ctx)
	if err != nil {
		return false, err
	}
	start := time.Now()
	if err := p.Pause(ctx); err != nil {
		return false, fmt.Errorf("pause: %w", err)
	}
	paused := time.Now()
	if err := sleep(ctx, pauseHold); err != nil {
		return false, err
	}
	hold := time.Since(paused)
	if err := p.Resume(ctx); err != nil {
		return false, fmt.Errorf("resume: %w", err)
	}
	n1, err := w.ticks(ctx)
	if err != nil {
		return false, err
	}
	awake := time.Since(start) - hold
	// What it may have done while awake, generously, and half of what it would have done in the
	// pause had it gone on.
	limit := 1.5*rate*awake.Seconds() + 0.5*rate*hold.Seconds()
	if _, err := w.ask(ctx); err != nil {
		return false, fmt.Errorf("after resume: %w", err)
	}
	return float64(n1-n0) <= limit, nil
}

// tickRate is how many ticks a second the program makes.
func tickRate(ctx context.Context, w *workload) (float64, error) {
	start := time.Now()
	n0, err := w.ticks(ctx)
	if err != nil {
		return 0, err
	}
	if err := sleep(ctx, pauseHold); err != nil {
		return 0, err
	}
	n1, err := w.ticks(ctx)
	return float64(n1-n0) / time.Since(start).Seconds(), err
}

// stepSnapshot saves a sandbox with a running program, restores it, looks at what has survived,
// and forks ten from the snapshot.
func stepSnapshot(ctx context.Context, s *session) error {
	sb, err := s.create(ctx)
	if err != nil {
		return err
	}
	saver, ok := sb.(sandbox.Snapshotter)
	restorer, ok2 := s.driver.(sandbox.Restorer)
	survival := []string{"snapshot.memory_survives", "snapshot.files_survive"}
	if !ok || !ok2 {
		return s.unable("a sandbox cannot be saved and restored", survival...)
	}
	w, err := startWorkload(ctx, sb)
	if err != nil {
		return err
	}
	mark := lease.NewID()
	if err := sb.WriteFile(ctx, witness, strings.NewReader(mark), 0o644); err != nil {
		return fmt.Errorf("write a file: %w", err)
	}
	before, err := w.ticks(ctx)
	if err != nil {
		return err
	}
	snap, err := s.save(ctx, saver)
	if errors.Is(err, sandbox.ErrUnsupported) {
		return s.unable(err.Error(), survival...)
	}
	if err == nil {
		// What is restored must not lean on the original.
		err = sb.Close()
	}
	known := false
	if err == nil {
		known, err = s.restore(ctx, restorer, snap, survivor{token: w.token, tick: before, mark: mark})
	}
	if err != nil && !known && ctx.Err() == nil {
		// An ability that fails when it is used is as good as none.
		for _, name := range survival {
			s.record(Sample{Name: name, Value: 0, Unit: "ratio", Note: "save or restore failed"})
		}
	}
	if err != nil {
		return err
	}
	return s.fork(ctx, restorer, snap)
}

// save takes and times a snapshot.
func (s *session) save(ctx context.Context, saver sandbox.Snapshotter) (sandbox.Snapshot, error) {
	dir, err := s.scratch.dir()
	if err != nil {
		return sandbox.Snapshot{}, err
	}
	start := time.Now()
	snap, err := saver.Snapshot(ctx, dir)
	took := time.Since(start)
	if err != nil {
		return snap, fmt.Errorf("save: %w", err)
	}
	if err := s.ownSnapshot(snap); err != nil {
		return snap, err
	}
	note := ""
	if snap.Kind == sandbox.SnapshotFiles {
		note = "the snapshot holds files only"
	}
	s.record(Sample{Name: "snapshot.save", Value: millis(took), Unit: "ms", Note: note})
	s.value("snapshot.disk", float64(snap.Bytes)/mib, "mib")
	return snap, nil
}

// survivor is what a restored sandbox is checked against.
type survivor struct {
	token string // in the program's memory
	tick  int64  // the program had come as far when the snapshot was asked for
	mark  string // in a file
}

// restore makes and times one sandbox from snap, and checks what has survived. known tells that the
// answer to that has been recorded.
func (s *session) restore(ctx context.Context, r sandbox.Restorer, snap sandbox.Snapshot, want survivor) (known bool, err error) {
	start := time.Now()
	sb, err := r.Restore(ctx, snap)
	if err != nil {
		return false, fmt.Errorf("restore: %w", err)
	}
	if err := s.own(sb); err != nil {
		return false, err
	}
	if _, err := run(ctx, sb, "true"); err != nil {
		return false, fmt.Errorf("after restore: %w", err)
	}
	s.since("snapshot.restore", start)

	content, err := readAll(ctx, sb, witness)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read a file after restore: %w", err)
	}
	memory := Sample{Name: "snapshot.memory_survives", Unit: "ratio", Note: "the snapshot holds files only"}
	if snap.Kind == sandbox.SnapshotFull {
		a, err := (&workload{sb: sb}).ask(ctx)
		if err != nil && ctx.Err() != nil {
			return false, err
		}
		memory.Value, memory.Note = want.compare(a, err)
	}
	s.value("snapshot.files_survive", ratio(string(content) == want.mark), "ratio")
	s.record(memory)
	return true, sb.Close()
}

// compare says whether the program that answered is the one that was saved.
func (want survivor) compare(a answer, err error) (value float64, note string) {
	switch {
	case err != nil:
		return 0, "the program did not go on: " + err.Error()
	case a.Token != want.token || !a.Intact || a.Tick < want.tick:
		return 0, "the program goes on with other memory than it had"
	}
	return 1, ""
}

// fork makes ten sandboxes from snap at once and checks that they are not copies of one another.
func (s *session) fork(ctx context.Context, r sandbox.Restorer, snap sandbox.Snapshot) error {
	children := make([]child, forks)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range children {
		c := &children[i]
		wg.Go(func() {
			if c.sb, c.err = r.Restore(ctx, snap); c.err == nil {
				c.err = s.own(c.sb)
			}
			if c.err == nil {
				c.clock, c.err = clockOffset(ctx, c.sb)
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	err := childErrors(children, func(c child) error { return c.err })
	if err == nil {
		s.value("snapshot.fork10.total", millis(took), "ms")
	}
	for i := range children {
		c := &children[i]
		wg.Go(func() { c.draw(ctx, snap.Kind == sandbox.SnapshotFull) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	s.judgeForks(children)
	return errors.Join(err, childErrors(children, func(c child) error { return c.drawErr }))
}

func childErrors(children []child, of func(child) error) error {
	var errs []error
	for i, c := range children {
		if err := of(c); err != nil {
			errs = append(errs, fmt.Errorf("fork %d of %d: %w", i+1, len(children), err))
		}
	}
	return errors.Join(errs...)
}

// judgeForks records for each child whether its clock and its random numbers are its own.
func (s *session) judgeForks(children []child) {
	unique, prng := distinct(children)
	for i, c := range children {
		record := func(name string, yes bool, err error, note string) {
			switch {
			case err != nil:
				yes, note = false, "a fork failed or did not answer"
			case yes:
				note = ""
			}
			s.record(Sample{Name: name, Index: i, Value: ratio(yes), Unit: "ratio", Note: note})
		}
		failed := errors.Join(c.err, c.drawErr)
		record("snapshot.fork.unique", unique[i], failed, "forks drew the same random numbers from their kernel")
		record("snapshot.fork.clock", c.clock.Abs() <= clockWithin, c.err, "the clock of a fork was off by more than 1 s")
		if c.err == nil {
			s.record(Sample{Name: "snapshot.fork.clock_error", Index: i, Value: millis(c.clock), Unit: "ms"})
		}
		if len(c.prng) > 0 {
			record("snapshot.fork.prng", prng[i], failed, "a program's own random number generator goes on alike in forks")
		}
	}
}
