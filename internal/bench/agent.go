package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/aethervm/aether/internal/bench/agentjobs"
	"github.com/aethervm/aether/sandbox"
)

// agentStateDir is the runtime's directory within a scratch directory.
const agentStateDir = "agent"

// surfer has a scripted agent do its jobs through MCP; package agentjobs does.
type surfer interface {
	run(ctx context.Context, cfg agentjobs.Config) ([]agentjobs.Result, error)
}

type mcpSurfer struct{}

func (mcpSurfer) run(ctx context.Context, cfg agentjobs.Config) ([]agentjobs.Result, error) {
	return agentjobs.Run(ctx, cfg)
}

// stepAgent has the scripted agent do its jobs on one system.
func stepAgent(ctx context.Context, s *session) error {
	report := &AgentReport{System: s.driver.System()}
	var recordErr error
	_, err := s.surfer.run(ctx, agentjobs.Config{
		Driver: s.driver, Image: s.spec.Image, StateDir: s.scratch.agentDir(s.driver.System()),
		MemoryMiB: s.spec.MemoryMiB, VCPUs: s.spec.VCPUs,
		Done: func(r agentjobs.Result) {
			result, err := jobResult(r)
			recordErr = errors.Join(recordErr, err)
			i := len(report.Jobs)
			report.Jobs = append(report.Jobs, result)
			s.record(Sample{Name: "control.agent_job", Index: i, Value: ratio(r.Done), Unit: "count", Note: r.Name})
			if r.Done {
				s.record(Sample{Name: "control.agent_time", Index: i, Value: millis(r.Duration), Unit: "ms", Note: r.Name})
			}
		},
	})
	return errors.Join(err, recordErr, s.files.writeJSON(agentDir+"/"+s.driver.System()+".json", report))
}

func jobResult(r agentjobs.Result) (JobResult, error) {
	result := JobResult{
		Name: r.Name, Needs: "mcp", Verified: r.Verified, Done: r.Done, Error: r.Error, NoAbility: r.NoAbility, Duration: r.Duration,
	}
	var m meter
	for _, c := range r.Calls {
		m.observe(sandbox.Call{Sent: len(c.Request), Received: len(c.Reply), Request: c.Request, Reply: c.Reply})
	}
	var err error
	result.Cost, err = m.cost()
	return result, err
}

// agentDir is where the runtime of a system keeps its records.
func (s *scratch) agentDir(system string) string {
	return filepath.Join(s.lease.Dir, agentStateDir, system)
}

// forgetAgents removes what the runtimes of a bench that was killed have left of the systems at hand.
func forgetAgents(ctx context.Context, dir string, drivers []sandbox.Driver) error {
	left, err := filepath.Glob(filepath.Join(dir, agentStateDir, "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, state := range left {
		err := fmt.Errorf("no driver for %q at hand", filepath.Base(state))
		for _, d := range drivers {
			if d.System() == filepath.Base(state) {
				ctx, cancel := context.WithTimeout(ctx, cleanupLimit)
				err = agentjobs.Clean(ctx, agentjobs.Config{Driver: d, StateDir: state})
				cancel()
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
