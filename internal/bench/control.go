package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aethervm/aether/sandbox"
)

const (
	jobLimit = 2 * time.Minute
	// provokeLimit is shorter: what should be refused must not go on doing harm.
	provokeLimit = 30 * time.Second
	// needsCore marks the jobs that the contract asks of every system. Costs are counted over them.
	needsCore = "core"
)

// job is one thing that the scripted agent gets done.
type job struct {
	name, needs, verified string
	do                    func(ctx context.Context, a *agent) error
}

// agent is the scripted agent: it does jobs through the control plane of one system.
type agent struct {
	s *session
	// sb is the sandbox that the jobs share; nil until there is one.
	sb sandbox.Sandbox
}

// box returns the shared sandbox. If a job before has broken it a new one is
// made. ctx is without the meter: the new one is at nobody's cost.
func (a *agent) box(ctx context.Context) (sandbox.Sandbox, error) {
	if a.sb != nil {
		return a.sb, nil
	}
	sb, err := a.s.create(ctx)
	if err != nil {
		return nil, err
	}
	a.sb = sb
	return sb, nil
}

// discard closes the shared sandbox, so that a job that failed does not spoil the next.
func (a *agent) discard() {
	if a.sb != nil {
		_ = a.sb.Close() // the session reports it, if it cannot be closed
		a.sb = nil
	}
}

// stepJobs does the jobs and provokes the errors.
func stepJobs(ctx context.Context, s *session) error {
	report := &JobReport{System: s.driver.System(), Cost: new(Cost)}
	a := &agent{s: s}
	for i, j := range jobs() {
		result, err := a.try(ctx, j)
		if err != nil {
			return err
		}
		report.Jobs = append(report.Jobs, result)
		s.record(Sample{Name: "control.job", Index: i, Value: ratio(result.Done), Unit: "count", Note: j.name})
		switch {
		case j.needs != needsCore || report.Cost == nil:
		case result.Done:
			*report.Cost = report.Cost.plus(result.Cost)
		default:
			report.Cost = nil
		}
	}
	a.discard()
	if report.Cost != nil {
		s.recordCost(*report.Cost)
	}
	for i, p := range provocations() {
		result, err := a.provoke(ctx, p)
		if err != nil {
			return err
		}
		report.Errors = append(report.Errors, result)
		if !result.Accepted {
			s.record(Sample{Name: "control.error", Index: i, Value: ratio(result.Typed), Unit: "ratio", Note: p.name})
		}
	}
	return s.files.writeJSON(jobsDir+"/"+s.driver.System()+".json", report)
}

func (s *session) recordCost(c Cost) {
	calls := Sample{Name: "control.calls", Value: float64(c.Calls), Unit: "count"}
	if c.Textless > 0 {
		// A system whose driver keeps its messages to itself must not pass for one of few words.
		calls.Note = fmt.Sprintf("tokens are not known: of %s the driver does not report the text", plural(c.Textless, "call"))
	}
	s.record(calls)
	s.value("control.wire", float64(c.WireBytes), "bytes")
	if c.Textless == 0 {
		s.value("control.tokens", float64(c.Tokens), "count")
	}
}

// try does one job. Its error is of what stops all jobs; that the job failed is a result.
func (a *agent) try(ctx context.Context, j job) (JobResult, error) {
	r := JobResult{Name: j.name, Needs: j.needs, Verified: j.verified}
	var m meter
	jobCtx, cancel := context.WithTimeoutCause(sandbox.WithObserver(ctx, m.observe), jobLimit, fmt.Errorf("not done within %v", jobLimit))
	defer cancel()
	// The sandbox is there before the clock and the meter start, but for the job that makes it.
	var err error
	if j.name != jobCreate {
		_, err = a.box(ctx)
	}
	start := time.Now()
	if err == nil {
		err = j.do(jobCtx, a)
	}
	r.Duration = time.Since(start)
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	r.Done = err == nil
	if err != nil {
		r.Error, r.NoAbility = err.Error(), isNoAbility(err) || errors.Is(err, sandbox.ErrUnsupported)
		a.discard()
	}
	r.Cost, err = m.cost()
	return r, err
}
