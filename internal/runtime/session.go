package runtime

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Session owns sandboxes, processes, outputs and budgets of one agent. Its operations may be called
// concurrently; each is allowed or refused by the session's capabilities and budgets, and written to
// the audit log.
type Session struct {
	r            *Runtime
	id           string
	tenant       Tenant
	capabilities []Capability
	ledger       *ledger

	// life ends, with the reason, when Close begins.
	life context.Context
	end  context.CancelCauseFunc
	// parts is of the last comparison with a snapshot.
	parts diffParts
	// calls are operations in progress, tasks what goes on in the background.
	calls, tasks sync.WaitGroup
	closing      sync.Once
	closeErr     error

	mu        sync.Mutex
	closed    error // why nothing is taken any more
	boxes     map[string]*box
	processes map[string]*process
	outputs   outputs
	// gone says of sandboxes that were there how they ended; the oldest are forgotten.
	gone      map[string]*Error
	goneOrder []string
}

// maxGone is how many sandboxes that have ended a session remembers.
const maxGone = 256

// Capabilities are those of a session for which none are asked.
func (r *Runtime) Capabilities() []Capability {
	if r.cfg.Capabilities == nil {
		return DefaultCapabilities()
	}
	return slices.Clone(r.cfg.Capabilities)
}

// OpenSession opens a session of a tenant, or returns the one of that ID that is open.
func (r *Runtime) OpenSession(_ context.Context, tenantID string, spec SessionSpec) (_ *Session, err error) {
	const op = "open session"
	c := r.call(op)
	c.tenant = tenantID
	defer c.end(&err)
	invalid := errors.Join(spec.Budget.check(), checkCapabilities(spec.Capabilities))
	if c.refused == nil && invalid == nil {
		if open := r.opened(tenantID, spec.ID); open != nil { // as for most calls over HTTP
			c.quiet = true
			return open, nil
		}
	}
	c.note("session", spec.ID)
	if c.refused != nil {
		return nil, c.refused
	}
	if spec.ID != "" && !nameRE.MatchString(spec.ID) {
		return nil, refuse(CodeInvalid, op, "use 1 to 64 of A-Z a-z 0-9 . _ -", "the session's ID is %q", clip(spec.ID, 64))
	}
	if invalid != nil {
		return nil, refuse(CodeInvalid, op, "capabilities are read, exec, fork and network; a budget of 0 is no bound", "%v", invalid)
	}
	t, err := r.tenant(op, tenantID)
	if err != nil {
		return nil, err
	}
	if spec.Capabilities == nil {
		spec.Capabilities = r.Capabilities()
	}
	id := spec.ID
	set(&id, newID(prefixSession))
	s := &Session{
		r: r, id: id, tenant: t.public(),
		ledger: newLedger("session", spec.Budget.within(r.limits.Session), t.ledger),
		boxes:  map[string]*box{}, processes: map[string]*process{}, gone: map[string]*Error{},
	}
	for _, can := range t.Capabilities {
		if slices.Contains(spec.Capabilities, can) {
			s.capabilities = append(s.capabilities, can)
		}
	}
	s.outputs.init(r.limits.OutputsKept, r.limits.OutputsSize)
	s.life, s.end = context.WithCancelCause(context.Background())

	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tenants[tenantID] == nil { // removed in between
		s.end(nil)
		return nil, refuse(CodeNotFound, op, "create it", "there is no tenant %q", clip(tenantID, 64))
	}
	if r.draining {
		s.end(nil)
		return nil, refuse(CodeUnavailable, op, "try again when it has been started again", "the runtime is shutting down")
	}
	key := sessionKey{tenantID, id}
	if open := r.sessions[key]; open != nil {
		s.end(nil)
		c.quiet = true
		return open, nil
	}
	c.note("session", id)
	r.sessions[key] = s
	s.tell(Event{Type: EventSessionOpened})
	return s, nil
}

// opened is a tenant's session that is open, or nil.
func (r *Runtime) opened(tenantID, id string) *Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tenants[tenantID] == nil { // its last sessions may be being closed
		return nil
	}
	return r.sessions[sessionKey{tenantID, id}]
}

// Session finds a session that is open.
func (r *Runtime) Session(tenantID, sessionID string) (*Session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sessions[sessionKey{tenantID, sessionID}]; s != nil {
		return s, nil
	}
	return nil, refuse(CodeNotFound, "find session", "open it", "there is no session %q", clip(sessionID, 64))
}

func (r *Runtime) sessionsOf(tenantID string) []*Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*Session
	for key, s := range r.sessions {
		if key.tenant == tenantID {
			list = append(list, s)
		}
	}
	return list
}

// ID names the session within its tenant.
func (s *Session) ID() string { return s.id }

// Tenant is whom the session belongs to.
func (s *Session) Tenant() Tenant { return s.tenant }

// Capabilities are what the session may do.
func (s *Session) Capabilities() []Capability { return slices.Clone(s.capabilities) }

// Budget says what is used and left of the session's own budget.
func (s *Session) Budget() BudgetState { return s.ledger.state() }

// Close ends what is in progress, kills the session's sandboxes and forgets its outputs. It returns
// when that is done, and is idempotent.
func (s *Session) Close() error {
	s.closing.Do(func() {
		why := refuse(CodeGone, "", "open another session", "the session was closed")
		s.mu.Lock()
		s.closed = why
		s.mu.Unlock()
		s.end(why)
		err := s.killAll(why)
		s.calls.Wait()
		// A sandbox whose creation was in progress.
		err = errors.Join(err, s.killAll(why))
		s.tasks.Wait()
		s.parts.forget()
		s.r.mu.Lock()
		if key := (sessionKey{s.tenant.ID, s.id}); s.r.sessions[key] == s {
			delete(s.r.sessions, key)
		}
		s.r.mu.Unlock()
		s.tell(Event{Type: EventSessionClosed})
		s.r.audit.append(AuditEntry{Time: time.Now(), Tenant: s.tenant.ID, Session: s.id, Op: "close session", Result: result(err)})
		s.closeErr = s.r.translate("close session", "", err)
	})
	return s.closeErr
}

func (s *Session) killAll(why *Error) error {
	boxes := s.list()
	errs := make([]error, len(boxes))
	var wg sync.WaitGroup
	for i, b := range boxes {
		wg.Go(func() { errs[i] = b.kill(why) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// list returns the sandboxes in the order of their creation.
func (s *Session) list() []*box {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*box, 0, len(s.boxes))
	for _, b := range s.boxes {
		list = append(list, b)
	}
	slices.SortFunc(list, func(a, b *box) int {
		if c := a.created.Compare(b.created); c != 0 {
			return c
		}
		return a.order - b.order
	})
	return list
}

// box finds a sandbox of this session. What another one has is not found, in the same words as what
// there is not.
func (s *Session) box(op, id string) (*box, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.boxes[id]; b != nil {
		return b, nil
	}
	if why := s.gone[id]; why != nil {
		e := *why
		e.Op, e.Sandbox = op, id
		return nil, &e
	}
	return nil, refuse(CodeNotFound, op, "list shows the sandboxes of this session; create makes one", "there is no sandbox %q in this session", clip(id, 64))
}

// add takes a sandbox in, unless the session is closed.
func (s *Session) add(b *box) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed != nil {
		return s.closed
	}
	s.boxes[b.id] = b
	return nil
}

// drop remembers how a sandbox ended.
func (s *Session) drop(id string, why *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.boxes, id)
	if s.gone[id] != nil {
		return
	}
	if len(s.goneOrder) == maxGone {
		delete(s.gone, s.goneOrder[0])
		s.goneOrder = s.goneOrder[1:]
	}
	s.gone[id] = why
	s.goneOrder = append(s.goneOrder, id)
}

// affordable refuses work when something that adds up is used up.
func (s *Session) affordable(op string) error {
	if no := s.ledger.exhausted(); no != nil {
		return no.err(op, nil)
	}
	return nil
}

// count adds what the session has to st.
func (s *Session) count(st *Status) {
	for _, b := range s.list() {
		st.Sandboxes++
		if b.isPaused() {
			st.Paused++
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.processes {
		if p.running() {
			st.Processes++
		}
	}
}

// nextReap is when the first of the session's sandboxes will be reaped; nil is never.
func (s *Session) nextReap() *time.Time {
	var first *time.Time
	for _, b := range s.list() {
		if t := b.reapTime(); t != nil && (first == nil || t.Before(*first)) {
			first = t
		}
	}
	return first
}
