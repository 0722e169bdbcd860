package runtime

import (
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// listener keeps what it is told.
type listener struct {
	mu  sync.Mutex
	ops map[string]Operation // the last one by op and result
	did map[string]int       // driver calls by system and name
}

func (l *listener) Operation(o Operation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops[o.Op+" "+o.Result] = o
}

func (l *listener) DriverCall(c DriverCall) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := c.System + " " + c.Call
	if c.Failed {
		name += " failed"
	}
	l.did[name]++
}

func TestObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		w.d.CreateTime = 300 * time.Millisecond
		l := &listener{ops: map[string]Operation{}, did: map[string]int{}}
		w.Observe(l)
		s := w.session(t, SessionSpec{Budget: Budget{Sandboxes: 4}})
		id := s.mustCreate(t, SandboxSpec{MemoryMiB: 100})
		s.mustRun(t, id, "sleep 2")
		if _, err := s.Fork(t.Context(), ForkRequest{Sandbox: id, Count: 3}); err != nil {
			t.Fatal(err)
		}
		_, err := s.Create(t.Context(), CreateRequest{})
		want(t, "a fifth one", err, CodeBudget)
		p := s.mustStart(t, id, "sleep 100")
		if _, err := s.Poll(t.Context(), PollRequest{Process: p, Wait: 7 * time.Second}); err != nil {
			t.Fatal(err)
		}

		// The clock is a fake one, and stands still while the runtime works: all that passes is elsewhere.
		for op, took := range map[string]time.Duration{
			"create ok": 300 * time.Millisecond, "run ok": 0, "fork ok": 300 * time.Millisecond, "poll ok": 7 * time.Second, "create budget": 0,
		} {
			o, ok := l.ops[op]
			if !ok || o.Total != took || o.Elsewhere != took {
				t.Errorf("%s: %+v, want %s elsewhere and in all", op, o, took)
			}
		}
		if no := l.ops["create budget"].Refused; no == nil || no.Resource != Sandboxes {
			t.Errorf("what was refused is %+v", no)
		}
		totals := w.Totals()
		if len(totals.Sandboxes) != 1 || totals.Sandboxes[0] != (SandboxTotal{System: "gvisor", State: StateRunning, Count: 4, MemoryMiB: 400}) {
			t.Errorf("%+v", totals.Sandboxes)
		}
		if err := s.Kill(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantCalls := map[string]int{"gvisor create": 1, "gvisor exec": 1, "gvisor exec failed": 1, "gvisor snapshot": 1, "gvisor restore": 3, "gvisor close": 1}
		if !maps.Equal(l.did, wantCalls) {
			t.Errorf("the driver was called: %v, want %v", l.did, wantCalls)
		}
		s.mustRun(t, "", "echo hello")
		if got := w.Totals(); got.OutputBytes != 6 || got.AuditEntries < 8 {
			t.Errorf("%+v", got)
		}
	})
}

func TestStopwatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w stopwatch
		w.start()
		time.Sleep(time.Second)
		w.start() // at the same time
		time.Sleep(time.Second)
		w.stop()
		if got := w.total(); got != 2*time.Second {
			t.Errorf("%s while it runs", got)
		}
		w.stop()
		time.Sleep(time.Second)
		w.add(time.Second)
		if got := w.total(); got != 3*time.Second {
			t.Errorf("%s", got)
		}
		var none *stopwatch
		none.start()
		none.stop()
	})
}
