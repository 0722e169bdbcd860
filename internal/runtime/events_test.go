package runtime

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// types are those of a tenant's events after one, without waiting.
func (w *world) types(t *testing.T, tenant string, after int64) (list []EventType, last int64) {
	t.Helper()
	page, _ := w.events.since(tenant, after)
	for _, e := range page.Events {
		list = append(list, e.Type)
	}
	return list, page.Last
}

func TestEventsTellOfAll(t *testing.T) {
	w := open(t, nil)
	tenant, err := w.Local(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	start, err := w.Events(t.Context(), tenant.ID, -1)
	if err != nil || len(start.Events) > 0 {
		t.Fatalf("%+v, %v", start, err)
	}
	s := w.session(t, SessionSpec{ID: "one"})
	id := s.mustCreate(t, SandboxSpec{})
	if _, err := s.Pause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pause(t.Context(), id); err != nil { // changes nothing
		t.Fatal(err)
	}
	if _, err := s.Resume(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	snap, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: id})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Restore(t.Context(), RestoreRequest{Snapshot: snap.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Rollback(t.Context(), RollbackRequest{Sandbox: id, Snapshot: snap.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fork(t.Context(), ForkRequest{Sandbox: id}); err != nil {
		t.Fatal(err)
	}
	p := s.mustStart(t, id, "sleep 1000")
	if _, err := s.Signal(t.Context(), SignalRequest{Process: p, Signal: "KILL"}); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveSnapshot(t.Context(), snap.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Kill(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	got, last := w.types(t, tenant.ID, start.Last)
	want := []EventType{EventSessionOpened, EventCreated, EventPaused, EventResumed, EventSnapshotCreated, EventRestored, EventRolledBack, EventForked,
		EventProcessStarted, EventProcessEnded, EventSnapshotRemoved, EventKilled}
	if !slices.Equal(got, want) {
		t.Errorf("events: %v\n  want: %v", got, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got, _ := w.types(t, tenant.ID, last); !slices.Equal(got, []EventType{EventKilled, EventKilled, EventSessionClosed}) {
		t.Errorf("events of the end: %v", got)
	}
}

func TestEventsOfOthersAreNotSeen(t *testing.T) {
	w := open(t, nil)
	one, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	start, err := w.Events(t.Context(), one.ID, -1)
	if err != nil {
		t.Fatal(err)
	}
	w.session(t, SessionSpec{}).mustCreate(t, SandboxSpec{}) // the local tenant's
	if page, _ := w.events.since(one.ID, start.Last); len(page.Events) > 0 || page.Last != start.Last {
		t.Errorf("of another tenant: %+v", page)
	}
	blind, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: "blind", Capabilities: []Capability{CanExec}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Events(t.Context(), blind.ID, -1)
	want(t, "without read", err, CodeDenied)
	_, err = w.Events(t.Context(), "tenobody", -1)
	want(t, "of nobody", err, CodeNotFound)
}

func TestEventsWait(t *testing.T) {
	noLeaks(t)
	synctest.Test(t, testEventsWait)
}

func testEventsWait(t *testing.T) {
	w := open(t, nil)
	tenant, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	start, err := w.Events(t.Context(), tenant.ID, -1)
	if err != nil {
		t.Fatal(err)
	}
	wait := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		go func() {
			page, err := w.Events(ctx, tenant.ID, start.Last)
			if err == nil && len(page.Events) == 0 {
				err = errors.New("there are no events")
			}
			done <- err
		}()
		synctest.Wait() // it waits for events now
		return done
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	want(t, "nothing happens", <-wait(ctx), CodeCancelled)
	done := wait(t.Context())
	if _, err := w.OpenSession(t.Context(), tenant.ID, SessionSpec{}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	page, err := w.Events(t.Context(), tenant.ID, start.Last)
	if err != nil {
		t.Fatal(err)
	}
	start = page
	done = wait(t.Context())
	if err := w.Drain(t.Context()); err != nil { // nobody is waited for
		t.Error(err)
	}
	w.shut(t)
	if err := <-done; err != nil { // or it heard of its session's end
		want(t, "the runtime closes", err, CodeUnavailable)
	}
	for start := page.Last; ; start = page.Last {
		if page, err = w.Events(t.Context(), tenant.ID, start); err != nil {
			break
		}
	}
	want(t, "the runtime is closed", err, CodeUnavailable)
}

func TestEventsAreBounded(t *testing.T) {
	var e events
	e.open(time.Now())
	start, _ := e.since("t", -1)
	const n = 5 * eventsKept
	for range n {
		e.add("t", Event{Type: EventCreated})
	}
	page, _ := e.since("t", start.Last)
	if !page.Lost || len(page.Events) < eventsKept || len(page.Events) > 2*eventsKept || page.Last != start.Last+n {
		t.Errorf("%d events, lost %t, the last %d", len(page.Events), page.Lost, page.Last-start.Last)
	}
	for i, ev := range page.Events {
		if ev.Seq != page.Last-int64(len(page.Events))+int64(i)+1 {
			t.Fatalf("event %d has number %d", i, ev.Seq)
		}
	}
	if page, _ := e.since("t", start.Last+n-1); page.Lost || len(page.Events) != 1 {
		t.Errorf("the last one: %+v", page)
	}
	if page, _ := e.since("t", start.Last+n+5); !page.Lost || len(page.Events) == 0 {
		t.Errorf("after one that is to come: lost %t, %d events", page.Lost, len(page.Events))
	}
}
