package runtime

import (
	"context"
	"errors"
	"reflect"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aethervm/aether/sandbox"
)

func TestDemand(t *testing.T) {
	start := time.Now()
	var d demand
	d.took(2 * time.Second)
	if d.spares(start) != 0 {
		t.Error("spares without demand")
	}
	d.asked(start)
	if d.spares(start) != 0 {
		t.Error("spares after one request")
	}
	for i := range 600 { // 10 a second
		d.asked(start.Add(time.Duration(i) * 100 * time.Millisecond))
	}
	now := start.Add(time.Minute)
	// What 60 s leave of it, and the mean of 2 s with twice its deviation.
	if w, n := d.now(now), d.spares(now); w < 350 || w > 400 || n < 17 || n > 23 {
		t.Errorf("weight %.0f, %d spares", w, n)
	}
	if n := d.spares(now.Add(3 * time.Minute)); n < 2 || n > 6 {
		t.Errorf("%d spares after 3 minutes", n)
	}
	if n := d.spares(now.Add(7 * time.Minute)); n != 0 {
		t.Errorf("%d spares after 7 minutes", n)
	}
}

func pooled(t *testing.T, sandboxes, memory int) *world {
	return open(t, func(c *Config) { c.Pool = PoolConfig{Sandboxes: sandboxes, MemoryMiB: memory} })
}

// TestPool has a sandbox ready for whoever asks for what was asked for before, until nobody does.
func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := pooled(t, 3, 0)
		w.d.CreateTime = 2 * time.Second
		s := w.session(t, SessionSpec{Budget: Budget{Sandboxes: 2, SandboxSeconds: 10_000}})
		spec := SandboxSpec{MemoryMiB: 128, Env: []string{"A=b"}, Labels: map[string]string{"job": "x"}}
		create := func() (SandboxInfo, time.Duration) {
			start := time.Now()
			info, err := s.Create(t.Context(), CreateRequest{SandboxSpec: spec})
			if err != nil {
				t.Fatal(err)
			}
			return info, time.Since(start)
		}
		cold, took := create()
		if took != 2*time.Second || w.Pool().Misses != 1 {
			t.Errorf("the first took %s, %+v", took, w.Pool())
		}
		s.mustRun(t, cold.ID, "write /tmp/f mine")
		create()
		time.Sleep(10 * time.Second)
		ready := w.Pool()
		if ready.Ready < 1 || ready.Ready > 3 || ready.MemoryMiB != int64(ready.Ready)*128 {
			t.Fatalf("%+v", ready)
		}
		if n, _ := w.d.Left(); n != 2+ready.Ready || w.Status().Sandboxes != 2 {
			t.Errorf("%d sandboxes, %+v", n, w.Status())
		}
		// Those that are ready are on nobody's budget; who takes one pays for it.
		_, err := s.Create(t.Context(), CreateRequest{SandboxSpec: spec})
		want(t, "third", err, CodeBudget)
		before := s.Budget()
		if err := s.Kill(t.Context(), cold.ID); err != nil {
			t.Fatal(err)
		}
		warm, took := create()
		if took != 0 || w.Pool().Hits != 1 {
			t.Errorf("it took %s, %+v", took, w.Pool())
		}
		if after := s.Budget(); !reflect.DeepEqual(before.Lines[0], after.Lines[0]) {
			t.Errorf("%+v, %+v", before, after)
		}
		// It is as if it had been made for who has it.
		if !warm.Created.Equal(time.Now()) || warm.ID == cold.ID {
			t.Errorf("%+v", warm)
		}
		cold.ID, cold.Created, warm.ID, warm.Created = "", time.Time{}, "", time.Time{}
		cold.KillIn, cold.PauseIn, warm.KillIn, warm.PauseIn = nil, nil, nil, nil
		if !reflect.DeepEqual(cold, warm) {
			t.Errorf("%+v without the pool, %+v with it", cold, warm)
		}
		list, err := s.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		last := list.Sandboxes[len(list.Sandboxes)-1].ID
		if res := s.mustRun(t, last, "env A"); res.Stdout != "b\n" {
			t.Errorf("%+v", res)
		}
		_, err = s.Read(t.Context(), ReadRequest{Sandbox: last, Path: "/tmp/f"})
		want(t, "what another one has written", err, CodeNotFound)
		time.Sleep(5 * time.Minute)
		if st := w.Pool(); st.Ready != 0 || st.Dropped == 0 {
			t.Errorf("nobody asks for more: %+v", st)
		}
	})
}

// TestPoolHandsNothingBack has tenants take turns: each sandbox has one owner ever.
func TestPoolHandsNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := pooled(t, 4, 0)
		w.d.CreateTime = 100 * time.Millisecond
		var sessions []*Session
		for _, name := range []string{"one", "two"} {
			tn, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			s, err := w.OpenSession(t.Context(), tn.ID, SessionSpec{})
			if err != nil {
				t.Fatal(err)
			}
			sessions = append(sessions, s)
		}
		for i := range 40 {
			res, err := sessions[i%2].Run(t.Context(), RunRequest{Shell: "cat /tmp/f; write /tmp/f used"})
			if err != nil || res.Stdout != "" {
				t.Fatalf("%+v, %v", res, err)
			}
			time.Sleep(500 * time.Millisecond)
		}
		st := w.Pool()
		if st.Hits < 30 || w.d.Made() < 40 || int64(w.d.Made()) != st.Made+st.Misses {
			t.Errorf("%d were made, %+v", w.d.Made(), st)
		}
	})
}

// TestPoolBounds holds the pool to its bounds, whatever is asked for.
func TestPoolBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := pooled(t, 5, 1000)
		w.d.CreateTime = time.Second
		s := w.session(t, SessionSpec{})
		for i := range 100 {
			spec := SandboxSpec{MemoryMiB: 100 + 200*(i%2), Processes: 100 + i%5}
			if _, err := s.Run(t.Context(), RunRequest{Shell: "true", Ephemeral: spec}); err != nil {
				t.Fatal(err)
			}
			if n, _ := w.d.Left(); n > 5+4 { // some may be on their way in, or out
				t.Fatalf("%d sandboxes", n)
			}
			if st := w.Pool(); st.Ready > 5 || st.MemoryMiB > 1000 {
				t.Fatalf("%+v", st)
			}
		}
		// Kinds that nobody asks for again are forgotten.
		for i := range 2 * maxKinds {
			if _, err := s.Run(t.Context(), RunRequest{Shell: "true", Ephemeral: SandboxSpec{Processes: 1000 + i}}); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.pool.size(); n > maxKinds {
			t.Errorf("%d kinds", n)
		}
		time.Sleep(10 * time.Minute)
		if n := w.pool.size(); n != 0 || w.Pool().Ready != 0 {
			t.Errorf("%d kinds, %+v", n, w.Pool())
		}
	})
}

// TestPoolOfTheDead has what is ready die, and what would be cannot be made.
func TestPoolOfTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := pooled(t, 2, 0)
		var failing atomic.Bool
		var made atomic.Int64
		w.d.OnCreate = func(context.Context, sandbox.Spec) error {
			if !failing.Load() {
				return nil
			}
			made.Add(1)
			return errors.New("no more")
		}
		s := w.session(t, SessionSpec{})
		for range 10 {
			if _, err := s.Run(t.Context(), RunRequest{Shell: "true"}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Second)
		if w.Pool().Ready == 0 {
			t.Fatalf("%+v", w.Pool())
		}
		w.d.Die()
		failing.Store(true)
		time.Sleep(30 * time.Second)
		if st := w.Pool(); st.Ready != 0 || st.Failed != 1 || made.Load() != 1 {
			t.Errorf("%+v, after %d attempts", st, made.Load())
		}
		failing.Store(false)
		if _, err := s.Run(t.Context(), RunRequest{Shell: "true"}); err != nil {
			t.Error(err)
		}
		// What is left when the runtime drains goes at once.
		for range 20 {
			if _, err := s.Run(t.Context(), RunRequest{Shell: "true"}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if w.Pool().Ready == 0 {
			t.Fatalf("%+v", w.Pool())
		}
		if err := w.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n, _ := w.d.Left(); n != 0 || w.Pool().Ready != 0 {
			t.Errorf("%d are left, %+v", n, w.Pool())
		}
	})
}

func (p *pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.kinds)
}

// TestPoolIsApart has one tenant learn nothing of what another one asks for, nor keep it out.
func TestPoolIsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := pooled(t, 8, 0)
		w.d.CreateTime = time.Second
		session := func(name string) *Session {
			tn, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			s, err := w.OpenSession(t.Context(), tn.ID, SessionSpec{})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		one, two := session("one"), session("two")
		run := func(s *Session, env string) time.Duration {
			start := time.Now()
			if _, err := s.Run(t.Context(), RunRequest{Shell: "true", Ephemeral: SandboxSpec{Env: []string{env}}}); err != nil {
				t.Fatal(err)
			}
			return time.Since(start)
		}
		for range 5 {
			run(one, "PIN=1234")
		}
		time.Sleep(5 * time.Second)
		if w.Pool().Ready == 0 {
			t.Fatalf("%+v", w.Pool())
		}
		if d := run(two, "PIN=1234"); d != time.Second {
			t.Errorf("the other tenant got one in %s", d)
		}
		if d := run(one, "PIN=1234"); d != 0 {
			t.Errorf("the tenant got its own in %s", d)
		}
		// As many kinds as there can be, asked for often enough to be kept.
		for i := range 2 * maxKinds {
			for range 3 {
				run(one, "N="+strconv.Itoa(i))
			}
		}
		if n := w.pool.size(); n > maxKindsEach+1 {
			t.Errorf("%d kinds", n)
		}
		for range 5 {
			run(two, "OTHER=1")
		}
		time.Sleep(20 * time.Second)
		if d := run(two, "OTHER=1"); d != 0 {
			t.Errorf("the other tenant got its own in %s", d)
		}
	})
}

// TestDrainIsBounded has the removal of what is ready take longer than whoever drains wants to wait.
func TestDrainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := pooled(t, 2, 0)
		s := w.session(t, SessionSpec{})
		for range 10 {
			s.mustCreate(t, SandboxSpec{})
		}
		time.Sleep(5 * time.Second)
		if w.Pool().Ready == 0 {
			t.Fatalf("%+v", w.Pool())
		}
		w.d.OnClose = func(string) error { time.Sleep(time.Hour); return nil }
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start, done := time.Now(), make(chan error, 1)
		go func() { done <- w.Drain(ctx) }()
		time.Sleep(time.Second)
		if !w.Status().Draining {
			t.Error("it takes new work meanwhile")
		}
		_, err := s.Create(t.Context(), CreateRequest{})
		want(t, "create", err, CodeUnavailable)
		if err := <-done; err == nil || time.Since(start) != 10*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}
