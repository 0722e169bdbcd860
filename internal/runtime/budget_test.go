package runtime

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aethervm/aether/internal/runtime/runtimetest"
)

func TestBudgetOfSandboxesAndMemory(t *testing.T) {
	noLeaks(t)
	w := open(t, func(c *Config) { c.Limits.Session = Budget{Sandboxes: 3, MemoryMiB: 1000} })
	s := w.session(t, SessionSpec{Budget: Budget{MemoryMiB: 2000}}) // no more than the limit
	a := s.mustCreate(t, SandboxSpec{})
	_, err := s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{MemoryMiB: 800}})
	if e := wantError(t, "memory", err, CodeBudget); e.Budget.Resource != MemoryMiB || e.Budget.Limit != 1000 || e.Budget.Used != 256 || e.Budget.Left != 744 || e.Budget.Wanted != 800 || e.Budget.More == nil {
		t.Errorf("%+v", e.Budget)
	}
	_, err = s.Fork(t.Context(), ForkRequest{Sandbox: a, Count: 3})
	want(t, "fork", err, CodeBudget)
	if _, err := s.Fork(t.Context(), ForkRequest{Sandbox: a, Count: 2}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{MemoryMiB: 64, Idle: IdlePolicy{Kill: -1}}})
	if e := wantError(t, "sandboxes", err, CodeBudget); e.Budget.Resource != Sandboxes || e.Budget.Left != 0 || !strings.Contains(e.Remedy, "reaped") {
		t.Errorf("%v", e)
	}
	_, err = s.Run(t.Context(), RunRequest{Shell: "true"})
	want(t, "ephemeral", err, CodeBudget)
	if err := s.Kill(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Run(t.Context(), RunRequest{Shell: "true"}); err != nil {
		t.Error(err)
	}
	for _, line := range s.Budget().Lines {
		if line.Resource == Sandboxes && (line.Used != 2 || line.Left != 1) {
			t.Errorf("%+v", line)
		}
	}
}

func TestBudgetOfTenant(t *testing.T) {
	w := open(t, nil)
	tn, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: "t", Budget: Budget{Sandboxes: 2}})
	if err != nil {
		t.Fatal(err)
	}
	one, err1 := w.OpenSession(t.Context(), tn.ID, SessionSpec{})
	two, err2 := w.OpenSession(t.Context(), tn.ID, SessionSpec{})
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	one.mustCreate(t, SandboxSpec{})
	two.mustCreate(t, SandboxSpec{})
	_, err = two.Create(t.Context(), CreateRequest{})
	if e := wantError(t, "third", err, CodeBudget); e.Budget.Of != "tenant" {
		t.Errorf("%+v", e.Budget)
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	two.mustCreate(t, SandboxSpec{})
}

func TestBudgetOfOutput(t *testing.T) {
	for _, pausing := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := open(t, nil)
			w.d.NoPause = !pausing
			s := w.session(t, SessionSpec{Budget: Budget{OutputBytes: 10_000, Window: time.Hour}})
			box := s.mustCreate(t, SandboxSpec{Idle: IdlePolicy{Kill: -1}})
			s.mustRun(t, box, "flood 5000")
			_, err := s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "flood 1000000"})
			e := wantError(t, "flood", err, CodeBudget)
			if e.Budget.Resource != OutputBytes || e.Budget.Used > 20_000 || e.Budget.More == nil || !strings.Contains(e.Remedy, "try again in") {
				t.Errorf("%v %+v", e, e.Budget)
			}
			_, err = s.Code(t.Context(), CodeRequest{Sandbox: box, Code: "x"})
			want(t, "code", err, CodeBudget)
			if _, err := s.Read(t.Context(), ReadRequest{Sandbox: box, Path: "/etc/os-release"}); err != nil {
				t.Errorf("what is there cannot be read: %v", err)
			}
			time.Sleep(time.Until(*e.Budget.More))
			s.mustRun(t, box, "flood 5000")
		})
	}
}

// TestBudgetOfTime has a background process wait, paused, for the next window.
func TestBudgetOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		s := w.session(t, SessionSpec{Budget: Budget{SandboxSeconds: 60, Window: time.Hour}})
		box := s.mustCreate(t, SandboxSpec{})
		process := s.mustStart(t, box, "sleep 100000")
		_, err := s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "sleep 1000"})
		if e := wantError(t, "run", err, CodeBudget); e.Budget.Resource != SandboxSeconds || e.Sandbox != box {
			t.Errorf("%v", e)
		}
		time.Sleep(2 * time.Second)
		info, err := s.Inspect(t.Context(), box)
		if err != nil || info.State != StatePaused {
			t.Errorf("%+v, %v", info, err)
		}
		time.Sleep(30 * time.Minute) // paused time is free, and the process is kept
		_, err = s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "true"})
		if e := wantError(t, "in the same window", err, CodeBudget); e.Budget.Used > 62 {
			t.Errorf("%+v", e.Budget)
		}
		time.Sleep(29 * time.Minute) // the window ends, and nobody touches the sandbox
		if info, err := s.Inspect(t.Context(), box); err != nil || info.State != StateRunning {
			t.Errorf("in the next window: %+v, %v", info, err)
		}
		s.mustRun(t, box, "true")
		if p, err := s.Poll(t.Context(), PollRequest{Process: process}); err != nil || !p.Running {
			t.Errorf("%+v, %v", p, err)
		}
		time.Sleep(2 * time.Minute) // it has used that one up too
		if info, err := s.Inspect(t.Context(), box); err != nil || info.State != StatePaused {
			t.Errorf("when it is used up: %+v, %v", info, err)
		}
		// To end what is paused, the sandbox has to go on for a moment.
		pauses := w.d.Pauses()
		p, err := s.Signal(t.Context(), SignalRequest{Process: process, Signal: "KILL"})
		if err != nil || p.Running || p.Signal != "SIGKILL" || p.Error != nil {
			t.Errorf("kill: %+v, %v", p, err)
		}
		time.Sleep(2 * time.Second)
		if info, err := s.Inspect(t.Context(), box); err != nil || info.State != StatePaused || w.d.Pauses() != pauses+1 {
			t.Errorf("after the kill: %+v, %v", info, err)
		}
		time.Sleep(2 * time.Hour) // nothing is in there that would go on
		if info, err := s.Inspect(t.Context(), box); CodeOf(err) != CodeGone {
			t.Errorf("an idle one: %+v, %v", info, err)
		}
	})
}

// TestFeedingFails has a sandbox that cannot be let go on when there is budget again: it is tried until it can.
func TestFeedingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		var tries atomic.Int64
		w.d.OnResume = func() error {
			if tries.Add(1) <= 3 {
				return errors.New("the guest refuses")
			}
			return nil
		}
		s := w.session(t, SessionSpec{Budget: Budget{SandboxSeconds: 60, Window: time.Hour}})
		box := s.mustCreate(t, SandboxSpec{})
		process := s.mustStart(t, box, "sleep 100000")
		time.Sleep(65*time.Second + tick/2)
		time.Sleep(time.Hour - 60*time.Second)
		if n := tries.Load(); n != 4 {
			t.Errorf("it was let go on %d times", n)
		}
		if p, err := s.Poll(t.Context(), PollRequest{Process: process}); err != nil || !p.Running {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// TestKillThatFails is one of a process that the system cannot end.
func TestKillThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		w.d.OnKill = func() error { return errors.New("no process is left to do it with") }
		s := w.session(t, SessionSpec{})
		box := s.mustCreate(t, SandboxSpec{})
		process := s.mustStart(t, box, "sleep 100000")
		time.Sleep(time.Second)
		_, err := s.Signal(t.Context(), SignalRequest{Process: process, Signal: "KILL"})
		if e := wantError(t, "kill", err, CodeInternal); !strings.Contains(e.Cause, "may still run") || !strings.Contains(e.Remedy, "kill the sandbox") {
			t.Error(e)
		}
		if p, err := s.Poll(t.Context(), PollRequest{Process: process}); err != nil || p.Error == nil || p.Signal != "" {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

func TestBudgetOfTimeWithoutPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		w.d.NoPause = true
		s := w.session(t, SessionSpec{Budget: Budget{SandboxSeconds: 60}})
		box := s.mustCreate(t, SandboxSpec{})
		time.Sleep(62 * time.Second)
		_, err := s.Inspect(t.Context(), box)
		if e := wantError(t, "inspect", err, CodeGone); !strings.Contains(e.Cause, "sandbox_seconds") {
			t.Error(e)
		}
	})
}

func TestBudgetOfCPU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		s := w.session(t, SessionSpec{Budget: Budget{VCPUSeconds: 2}})
		for range 2 { // each sandbox in memory says that it has used a second
			s.mustCreate(t, SandboxSpec{})
		}
		time.Sleep(3 * time.Second)
		_, err := s.Create(t.Context(), CreateRequest{})
		if e := wantError(t, "create", err, CodeBudget); e.Budget.Resource != VCPUSeconds || e.Budget.Used != 2 {
			t.Errorf("%+v", e.Budget)
		}
	})
}

func TestBudgetOfEgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := runtimetest.New("docker")
		d.SentBytes = 600
		w := open(t, nil, d)
		s := w.session(t, SessionSpec{Budget: Budget{EgressBytes: 2000}})
		used := func() int64 { return s.ledger.state().Lines[0].Used }
		lives := s.mustCreate(t, SandboxSpec{System: "docker"})
		time.Sleep(3 * time.Second)
		if used() != 600 {
			t.Errorf("used %d bytes", used())
		}
		// What is sent in the moment before the end counts, and before a pause.
		short := s.mustCreate(t, SandboxSpec{System: "docker"})
		if err := s.Kill(t.Context(), short); err != nil || used() != 1200 {
			t.Errorf("used %d bytes, %v", used(), err)
		}
		paused := s.mustCreate(t, SandboxSpec{System: "docker"})
		if _, err := s.Pause(t.Context(), paused); err != nil || used() != 1800 {
			t.Errorf("used %d bytes, %v", used(), err)
		}
		s.mustCreate(t, SandboxSpec{System: "docker"})
		time.Sleep(3 * time.Second)
		_, err := s.Create(t.Context(), CreateRequest{})
		if e := wantError(t, "create", err, CodeBudget); e.Budget.Resource != EgressBytes || e.Budget.Used != 2400 {
			t.Errorf("%+v", e.Budget)
		}
		_, err = s.Run(t.Context(), RunRequest{Sandbox: lives, Shell: "echo x"})
		if e := wantError(t, "run", err, CodeBudget); e.Budget.Resource != EgressBytes {
			t.Errorf("%+v", e.Budget)
		}
	})
}

func TestReaping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := runtimetest.New("docker")
		plain.NoPause = true
		w := open(t, nil, plain)
		s := w.session(t, SessionSpec{})
		policy := IdlePolicy{Pause: 10 * time.Second, Kill: time.Minute}
		idle := s.mustCreate(t, SandboxSpec{Idle: policy})
		busy := s.mustCreate(t, SandboxSpec{Idle: policy})
		short := s.mustCreate(t, SandboxSpec{TTL: 30 * time.Second, Idle: IdlePolicy{Pause: -1, Kill: -1}})
		forever := s.mustCreate(t, SandboxSpec{Idle: IdlePolicy{Pause: -1, Kill: -1}})
		cannot := s.mustCreate(t, SandboxSpec{System: "docker", Idle: policy})
		process := s.mustStart(t, busy, "sleep 3600")
		s.mustStart(t, short, "sleep 3600")
		look := func(id string) SandboxInfo {
			t.Helper()
			i, err := s.Inspect(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return i
		}
		time.Sleep(5 * time.Second)
		if i := look(idle); *i.PauseIn != 5 || *i.KillIn != 55 || i.State != StateRunning {
			t.Errorf("%+v", i)
		}
		if i := look(busy); i.PauseIn != nil || i.KillIn != nil || i.Processes != 1 {
			t.Errorf("%+v", i)
		}
		if i := look(short); *i.ExpiresIn != 25 {
			t.Errorf("%+v", i)
		}
		if i := look(cannot); i.PauseIn != nil || *i.KillIn != 55 {
			t.Errorf("%+v", i)
		}
		time.Sleep(7 * time.Second)
		if i := look(idle); i.State != StatePaused {
			t.Errorf("%+v", i)
		}
		s.mustRun(t, idle, "true") // goes on
		if i := look(idle); i.State != StateRunning || *i.KillIn != 60 {
			t.Errorf("%+v", i)
		}
		time.Sleep(20 * time.Second)
		if i := look(idle); i.State != StatePaused {
			t.Errorf("%+v", i)
		}
		_, err := s.Inspect(t.Context(), short)
		if e := wantError(t, "expired", err, CodeGone); !strings.Contains(e.Cause, "time to live") {
			t.Error(e)
		}
		time.Sleep(45 * time.Second)
		_, err = s.Run(t.Context(), RunRequest{Sandbox: idle, Shell: "true"})
		if e := wantError(t, "reaped", err, CodeGone); !strings.Contains(e.Cause, "idle for 1m0s") {
			t.Error(e)
		}
		_, err = s.Inspect(t.Context(), cannot)
		want(t, "reaped", err, CodeGone)
		time.Sleep(50 * time.Minute)
		look(busy)
		look(forever)
		time.Sleep(15 * time.Minute)
		_, err = s.Inspect(t.Context(), busy)
		want(t, "reaped after its process has ended", err, CodeGone)
		if p, err := s.Poll(t.Context(), PollRequest{Process: process}); err != nil || p.ExitCode == nil || *p.ExitCode != 0 {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// TestPauseAgainstUse has operations begin at the moment of pausing.
func TestPauseAgainstUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		s := w.session(t, SessionSpec{})
		box := s.mustCreate(t, SandboxSpec{Idle: IdlePolicy{Pause: time.Second, Kill: -1}})
		for range 50 {
			s.mustRun(t, box, "true")
			time.Sleep(time.Second)
			s.mustRun(t, box, "sleep 0.01")
			time.Sleep(2 * time.Second)
		}
		if w.d.Pauses() < 50 {
			t.Errorf("it was paused %d times", w.d.Pauses())
		}
	})
}

// A sandbox that runs though it could not be let go on in order is billed, and paused again.
func TestResumeHalfWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		s := w.session(t, SessionSpec{})
		id := s.mustCreate(t, SandboxSpec{Idle: IdlePolicy{Pause: 10 * time.Second, Kill: -1}})
		state := func() State {
			info, err := s.Inspect(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return info.State
		}
		time.Sleep(15*time.Second + tick/2) // not when the reaper looks
		if got := state(); got != StatePaused {
			t.Fatal(got)
		}
		w.d.OnResume = func() error { return errors.New("the guest refuses") }
		if _, err := s.Run(t.Context(), RunRequest{Sandbox: id, Shell: "true"}); err == nil {
			t.Error("it was let go on")
		}
		if got := state(); got != StateRunning {
			t.Errorf("it runs, but is said to be %s", got)
		}
		time.Sleep(15 * time.Second)
		if got := state(); got != StatePaused || w.d.Pauses() != 2 {
			t.Errorf("%s after %d pauses", got, w.d.Pauses())
		}
		w.d.OnResume = nil
		s.mustRun(t, id, "true")
	})
}

// stalledWriter takes nothing until it is let go.
type stalledWriter struct{ let chan struct{} }

func (w stalledWriter) Write(p []byte) (int, error) {
	<-w.let
	return len(p), nil
}

// TestReadingWithoutBudget has a sandbox without budget be read: for a while it may, then it is paused all the same,
// whether or not its reader takes what it is given.
func TestReadingWithoutBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		s := w.session(t, SessionSpec{Budget: Budget{SandboxSeconds: 60, Window: time.Hour}})
		box := s.mustCreate(t, SandboxSpec{Idle: IdlePolicy{Kill: -1}})
		process := s.mustStart(t, box, "sleep 100000")
		state := func() State {
			t.Helper()
			info, err := s.Inspect(t.Context(), box)
			if err != nil {
				t.Fatal(err)
			}
			return info.State
		}
		read := func() error {
			_, err := s.Read(t.Context(), ReadRequest{Sandbox: box, Path: "/etc/os-release"})
			return err
		}
		stalled := stalledWriter{make(chan struct{})}
		ended := make(chan error, 1)
		go func() {
			ended <- s.Download(t.Context(), DownloadRequest{Sandbox: box, Path: "/etc/os-release"}, stalled)
		}()
		time.Sleep(60*time.Second + readGrace/2)
		if st := state(); st != StateRunning {
			t.Errorf("while it is read it is %s", st)
		}
		if err := read(); err != nil {
			t.Error(err)
		}
		time.Sleep(readGrace/2 + endGrace + 3*tick)
		if st := state(); st != StatePaused {
			t.Errorf("when it has been read for long enough it is %s", st)
		}
		want(t, "another read", read(), CodeBudget)
		if st := state(); st != StatePaused {
			t.Errorf("after another read it is %s", st)
		}
		close(stalled.let)
		if err := <-ended; err != nil { // it had come to its end when it was told to
			t.Error(err)
		}
		time.Sleep(time.Until(*s.Budget().WindowEnds) + 3*tick)
		if st := state(); st != StateRunning {
			t.Errorf("in the next window it is %s", st)
		}
		if err := read(); err != nil {
			t.Error(err)
		}
		if p, err := s.Poll(t.Context(), PollRequest{Process: process}); err != nil || !p.Running {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// TestReadingIsEnded has the reading of a sandbox without budget be told so.
func TestReadingIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		s := w.session(t, SessionSpec{Budget: Budget{SandboxSeconds: 60}})
		b, err := s.box("test", s.mustCreate(t, SandboxSpec{}))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		u, err := b.enter(t.Context(), forReading)
		if err != nil {
			t.Fatal(err)
		}
		<-u.ctx.Done()
		if e := wantError(t, "reading", b.s.r.translate("read", b.id, b.reason(u.ctx, u.ctx.Err())), CodeBudget); e.Budget.Resource != SandboxSeconds {
			t.Errorf("%+v", e.Budget)
		}
		if d := time.Since(start); d < 60*time.Second+readGrace-tick || d > 60*time.Second+readGrace+2*tick {
			t.Errorf("it was let for %s", d)
		}
		u.end()
		time.Sleep(2 * tick)
		if !b.isPaused() {
			t.Error("it is not paused")
		}
	})
}

// TestShortReadsWithoutBudget has one read follow the other: together they have no more time.
func TestShortReadsWithoutBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		s := w.session(t, SessionSpec{Budget: Budget{SandboxSeconds: 60}})
		box := s.mustCreate(t, SandboxSpec{Idle: IdlePolicy{Kill: -1}})
		time.Sleep(62 * time.Second)
		start := time.Now()
		var err error
		for err == nil && time.Since(start) < 10*readGrace {
			if _, err = s.Read(t.Context(), ReadRequest{Sandbox: box, Path: "/etc/os-release"}); err == nil {
				time.Sleep(tick / 2)
				_, err = s.Pause(t.Context(), box)
			}
		}
		want(t, "a read", err, CodeBudget)
		if d := time.Since(start); d < readGrace/2 || d > 2*readGrace {
			t.Errorf("it could be read for %s", d)
		}
	})
}

// TestPausedByItsUser stays so, whatever becomes of the budget.
func TestPausedByItsUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		s := w.session(t, SessionSpec{Budget: Budget{SandboxSeconds: 60, Window: time.Hour}})
		box := s.mustCreate(t, SandboxSpec{Idle: IdlePolicy{Kill: -1}})
		s.mustStart(t, box, "sleep 100000")
		time.Sleep(65 * time.Second)
		if _, err := s.Pause(t.Context(), box); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(*s.Budget().WindowEnds) + 3*tick)
		if info, err := s.Inspect(t.Context(), box); err != nil || info.State != StatePaused {
			t.Errorf("%+v, %v", info, err)
		}
	})
}
