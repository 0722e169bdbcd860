package gvisor

import (
	"context"

	"github.com/aethervm/aether/sandbox"
)

// Pause is sandbox.Pauser's.
func (s *Sandbox) Pause(ctx context.Context) error { return s.setPaused(ctx, "pause", true) }

// Resume is sandbox.Pauser's.
func (s *Sandbox) Resume(ctx context.Context) error { return s.setPaused(ctx, "resume", false) }

// setPaused runs runsc pause or resume, which are not idempotent.
func (s *Sandbox) setPaused(callerCtx context.Context, op string, want bool) error {
	ctx, done, err := s.begin(callerCtx, op)
	if err != nil {
		return err
	}
	defer done()
	s.pausing.Lock()
	defer s.pausing.Unlock()
	if s.paused == want {
		return ctx.Err()
	}
	if _, err := s.runsc.call(ctx, op, s.id); err != nil {
		return s.fail(callerCtx, op, err)
	}
	s.paused = want
	return nil
}

// Stats is sandbox.StatsReader's.
func (s *Sandbox) Stats(callerCtx context.Context) (sandbox.Stats, error) {
	const op = "stats"
	ctx, done, err := s.begin(callerCtx, op)
	if err != nil {
		return sandbox.Stats{}, err
	}
	defer done()
	out, err := s.runsc.call(ctx, "events", "--stats", s.id)
	if err != nil {
		return sandbox.Stats{}, s.fail(callerCtx, op, err)
	}
	stats, err := parseStats(out)
	return stats, typed(op, s.id, err)
}

// HostProcesses is sandbox.Inspector's. The sentry runs guest code in stubs, processes of its own
// which are part of it: they run that code and have no memory but the guest's.
func (s *Sandbox) HostProcesses(callerCtx context.Context) ([]sandbox.HostProcess, error) {
	const op = "list host processes"
	ctx, done, err := s.begin(callerCtx, op)
	if err != nil {
		return nil, err
	}
	defer done()
	pids := s.group.procs()
	if len(pids) == 0 {
		return nil, s.fail(ctx, op, &runscError{op: op, detail: "its cgroup is empty"})
	}
	list := make([]sandbox.HostProcess, 0, len(pids))
	for _, pid := range pids {
		role := sandbox.RoleGuest
		if isGofer(pid) {
			role = sandbox.RoleHelper
		}
		list = append(list, sandbox.HostProcess{PID: pid, Role: role})
	}
	return list, nil
}
