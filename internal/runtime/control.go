package runtime

import (
	"context"
	"slices"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

// Pause stops a sandbox at once, with all that runs in it. The next operation on it lets it go on, as after a pause
// for idleness. One that is paused stays so.
func (s *Session) Pause(ctx context.Context, sandboxID string) (info SandboxInfo, err error) {
	ctx, c, err := s.call(ctx, "pause", sandboxID, CanExec)
	defer c.end(&err)
	if err != nil {
		return info, err
	}
	b, err := s.box(c.op, sandboxID)
	if err != nil {
		return info, err
	}
	if err := b.lockTurn(ctx); err != nil {
		return info, b.reason(ctx, err)
	}
	paused, err := b.pause(ctx)
	if paused {
		b.mu.Lock()
		b.starved = false // to go on is not the budget's to say any more
		b.mu.Unlock()
	}
	b.unlockTurn()
	if err != nil {
		return info, b.reason(ctx, err)
	}
	if !paused {
		return info, refuse(CodeUnsupported, c.op, "snapshot it, and kill it", "%s cannot pause a sandbox here", b.driver.System())
	}
	return b.info(), nil
}

// Resume lets a sandbox go on. One that is not paused stays as it is, but has been active just now.
func (s *Session) Resume(ctx context.Context, sandboxID string) (info SandboxInfo, err error) {
	ctx, c, err := s.call(ctx, "resume", sandboxID, CanExec)
	defer c.end(&err)
	if err != nil {
		return info, err
	}
	u, err := s.enter(ctx, c.op, sandboxID, forWork)
	if err != nil {
		return info, err
	}
	u.end()
	return u.b.info(), nil
}

// Stats tells what a sandbox uses, by its system's account. It is no activity: a sandbox that is only looked at
// becomes idle.
func (s *Session) Stats(ctx context.Context, sandboxID string) (stats sandbox.Stats, err error) {
	ctx, c, err := s.call(ctx, "stats", sandboxID, CanRead)
	c.quiet = true
	defer c.end(&err)
	if err != nil {
		return stats, err
	}
	b, err := s.box(c.op, sandboxID)
	if err != nil {
		return stats, err
	}
	b.mu.Lock()
	sb, paused := b.sb, b.paused
	b.mu.Unlock()
	reader, ok := sb.(sandbox.StatsReader)
	switch {
	case !ok:
		return stats, refuse(CodeUnsupported, c.op, "look from inside, by run: free, ps", "%s does not say what a sandbox uses", b.driver.System())
	case paused:
		return stats, refuse(CodeConflict, c.op, "resume it first", "the sandbox is paused")
	}
	done := b.drive(ctx, "stats")
	stats, err = reader.Stats(ctx)
	done(&err)
	return stats, b.reason(ctx, err)
}

// Sessions are the open ones of a tenant, by ID.
func (r *Runtime) Sessions(tenantID string) []*Session {
	list := r.sessionsOf(tenantID)
	slices.SortFunc(list, func(a, b *Session) int { return strings.Compare(a.id, b.id) })
	return list
}

// SessionOf finds the session of a tenant that a sandbox, a process or an output belongs to, or belonged to if it is
// gone. What another tenant has is not found, in the same words as what there is not.
func (r *Runtime) SessionOf(tenantID, id string) (_ *Session, err error) {
	for _, s := range r.Sessions(tenantID) {
		if s.knows(id) {
			return s, nil
		}
	}
	c := r.call("find") // that somebody has asked for what there is not is worth an entry
	c.tenant, c.sandbox = tenantID, id
	defer c.end(&err)
	return nil, refuse(CodeNotFound, c.op, "list shows what there is", "there is no %q", clip(id, 64))
}

func (s *Session) knows(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boxes[id] != nil || s.gone[id] != nil || s.processes[id] != nil || s.outputs.kept[id] != nil
}

// TenantBudget says what is used and left of a tenant's budget, of all its sessions together.
func (r *Runtime) TenantBudget(tenantID string) (BudgetState, error) {
	t, err := r.tenant("budget", tenantID)
	if err != nil {
		return BudgetState{}, err
	}
	return t.ledger.state(), nil
}

// SetBudget gives a tenant another budget. What is used stays on its account, and what is more than the new budget
// goes on until it ends by itself.
func (r *Runtime) SetBudget(_ context.Context, tenantID string, budget Budget) (t Tenant, err error) {
	c := r.call("set budget")
	c.tenant = tenantID
	defer c.end(&err)
	if c.refused != nil {
		return t, c.refused
	}
	if err := budget.check(); err != nil {
		return t, refuse(CodeInvalid, c.op, "give zero for no bound", "%v", err)
	}
	return r.changeTenant(c.op, tenantID, func(t *tenantRecord) { t.Budget = budget })
}

// Sandboxes counts those that are alive.
func (s *Session) Sandboxes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.boxes)
}

// SnapshotsOf lists the snapshots of a tenant, which needs CanRead, without a session.
func (r *Runtime) SnapshotsOf(tenantID string) ([]SnapshotInfo, error) {
	if _, err := r.reader("snapshots", tenantID); err != nil {
		return nil, err
	}
	return r.snapshotInfos(tenantID), nil
}
