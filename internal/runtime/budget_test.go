package runtime

import (
	"errors"
	"strings"
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
		time.Sleep(time.Hour)
		s.mustRun(t, box, "true")
		if p, err := s.Poll(t.Context(), PollRequest{Process: process}); err != nil || !p.Running {
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
		time.Sleep(15 * time.Second)
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
