package runtime

import (
	"context"
	"slices"
	"sync"
	"time"
)

// EventType is what has happened. The set may grow.
type EventType string

// The types of events.
const (
	EventSessionOpened   EventType = "session.opened"
	EventSessionClosed   EventType = "session.closed"
	EventCreated         EventType = "sandbox.created"  // of Template, if it is a copy of one
	EventForked          EventType = "sandbox.forked"   // Parent is what it is a copy of
	EventRestored        EventType = "sandbox.restored" // from Snapshot
	EventRolledBack      EventType = "sandbox.rolled_back"
	EventPaused          EventType = "sandbox.paused"
	EventResumed         EventType = "sandbox.resumed"
	EventKilled          EventType = "sandbox.killed" // Cause says why: by a call, idle, expired, died
	EventProcessStarted  EventType = "process.started"
	EventProcessEnded    EventType = "process.ended"
	EventSnapshotCreated EventType = "snapshot.created"
	EventSnapshotRemoved EventType = "snapshot.removed"
	EventTemplateCreated EventType = "template.created"
	EventTemplateRemoved EventType = "template.removed"
)

// Event tells of one change to what a tenant has.
type Event struct {
	// Seq goes up by one with each event of the tenant, also from one process to the next.
	Seq      int64     `json:"seq"`
	Time     time.Time `json:"time"`
	Type     EventType `json:"type"`
	Session  string    `json:"session,omitempty"`
	Sandbox  string    `json:"sandbox,omitempty"`
	Parent   string    `json:"parent,omitempty"`
	Process  string    `json:"process,omitempty"`
	Snapshot string    `json:"snapshot,omitempty"`
	Template string    `json:"template,omitempty"`
	Cause    string    `json:"cause,omitempty"`
}

// EventPage is what Events returns.
type EventPage struct {
	Events []Event `json:"events"`
	// Last is the Seq to go on after.
	Last int64 `json:"last"`
	// Lost tells that there were events after the one asked for that are not kept any more: whoever follows
	// them reads the lists again.
	Lost bool `json:"lost,omitempty"`
}

// eventsKept is how many events of a tenant are kept for those who are late.
const eventsKept = 1024

// events are those of all tenants. Its methods may be called concurrently, whatever locks the caller holds.
type events struct {
	mu    sync.Mutex
	first int64 // the Seq before that of any tenant's first event
	rings map[string]*eventRing
}

// eventRing holds the last events of one tenant.
type eventRing struct {
	last int64
	kept []Event       // in the order of Seq
	more chan struct{} // closed with the next event
}

// open numbers events from a time on, so that no former process has used the numbers: it had fewer than one event a
// microsecond.
func (e *events) open(started time.Time) {
	e.first, e.rings = started.UnixMicro(), map[string]*eventRing{}
}

// ring is that of a tenant. The caller holds mu.
func (e *events) ring(tenant string) *eventRing {
	r := e.rings[tenant]
	if r == nil {
		r = &eventRing{last: e.first, more: make(chan struct{})}
		e.rings[tenant] = r
	}
	return r
}

func (e *events) add(tenant string, ev Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.ring(tenant)
	r.last++
	ev.Seq, ev.Time = r.last, time.Now().UTC().Round(0)
	if len(r.kept) == 2*eventsKept { // what is old goes in one step
		r.kept = append(r.kept[:0], r.kept[eventsKept:]...)
	}
	r.kept = append(r.kept, ev)
	close(r.more)
	r.more = make(chan struct{})
}

// forget drops those of a tenant that is removed, and wakes whoever waits for more.
func (e *events) forget(tenant string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.rings[tenant]; r != nil {
		close(r.more)
		delete(e.rings, tenant)
	}
}

// since returns what came after a Seq, and a channel that is closed when there is more.
func (e *events) since(tenant string, after int64) (page EventPage, more <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.ring(tenant)
	page.Last = r.last
	if after < 0 {
		return page, r.more
	}
	oldest := r.last - int64(len(r.kept))
	page.Lost = after < oldest || after > r.last
	from := min(max(0, after-oldest), int64(len(r.kept)))
	if after > r.last { // no number of this runtime
		from = 0
	}
	page.Events = slices.Clone(r.kept[from:])
	return page, r.more
}

// Events returns what happened to a tenant's things after the event with number after, and waits for something to
// happen if there is nothing yet. With after negative it returns at once, with no events, the number to go on from. The
// last 1024 events are kept at least. The tenant needs CanRead.
//
// It is no operation that Drain waits for: it fails when the runtime closes, or the tenant is removed.
func (r *Runtime) Events(ctx context.Context, tenantID string, after int64) (EventPage, error) {
	const op = "events"
	for {
		t, err := r.tenant(op, tenantID)
		if err != nil {
			return EventPage{}, err
		}
		if !slices.Contains(t.Capabilities, CanRead) {
			return EventPage{}, refuse(CodeDenied, op, "use another token", "this tenant has no capability %q", CanRead)
		}
		page, more := r.events.since(tenantID, after)
		if after < 0 || page.Lost || len(page.Events) > 0 {
			return page, nil
		}
		select {
		case <-more:
		case <-r.closing.Done():
			return EventPage{}, refuse(CodeUnavailable, op, "try again when it has been started again", "the runtime is shutting down")
		case <-ctx.Done():
			return EventPage{}, r.translate(op, "", context.Cause(ctx))
		}
	}
}

// tell adds an event of the session.
func (s *Session) tell(e Event) {
	e.Session = s.id
	s.r.events.add(s.tenant.ID, e)
}

// tell adds an event of the box.
func (b *box) tell(t EventType, cause string) {
	b.s.tell(Event{Type: t, Sandbox: b.id, Cause: clip(cause, 256)})
}

// tellMade adds the event that a box was made.
func (b *box) tellMade() {
	e := Event{Type: EventCreated, Sandbox: b.id, Template: b.template}
	switch {
	case b.parent != "":
		e.Type, e.Parent = EventForked, b.parent
	case b.from != "":
		e.Type, e.Snapshot = EventRestored, b.from
	}
	b.s.tell(e)
}
