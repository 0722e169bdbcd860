package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aethervm/aether/internal/probe"
	"github.com/aethervm/aether/internal/probe/finding"
	"github.com/aethervm/aether/sandbox"
)

// ProbeReport is probes/<system>.json: what the isolation probes found, and how the bombs went.
type ProbeReport struct {
	Inside  []finding.Finding `json:"inside"`
	Outside []finding.Finding `json:"outside"`
	Bombs   []finding.Finding `json:"bombs"`
	// Runs are the courses of the bombs, in the order of Bombs.
	Runs []probe.Bomb `json:"runs"`
}

// prober judges isolation; package probe does.
type prober interface {
	// look probes a sandbox from inside and what serves it from outside.
	look(ctx context.Context, sb sandbox.Sandbox, accelerator string) (probe.Report, error)
	// bombs sets off bombs in sandboxes made by create and watches siblings and the host.
	bombs(ctx context.Context, create func(context.Context) (sandbox.Sandbox, error), accelerator string) (probe.BombReport, error)
}

// hostProber is the real one.
type hostProber struct{}

func (hostProber) look(ctx context.Context, sb sandbox.Sandbox, accelerator string) (probe.Report, error) {
	return probe.Look(ctx, sb, accelerator)
}

func (hostProber) bombs(ctx context.Context, create func(context.Context) (sandbox.Sandbox, error), accelerator string) (probe.BombReport, error) {
	return probe.Bombs(ctx, create, accelerator)
}

// stepProbes looks for what guest code can see and reach.
func stepProbes(ctx context.Context, s *session) error {
	sb, err := s.create(ctx)
	if err != nil {
		return err
	}
	found, err := s.prober.look(ctx, sb, s.info.Accelerator)
	if err != nil {
		return err
	}
	s.recordMetrics(found.Metrics)
	return s.amendProbes(func(r *ProbeReport) { r.Inside, r.Outside = found.Inside, found.Outside })
}

// stepBombs looks for what a neighbour feels.
func stepBombs(ctx context.Context, s *session) error {
	found, err := s.prober.bombs(ctx, s.create, s.info.Accelerator)
	if err != nil {
		return err
	}
	s.recordMetrics(found.Metrics)
	return s.amendProbes(func(r *ProbeReport) { r.Bombs, r.Runs = found.Bombs, found.Runs })
}

// recordMetrics records metrics as samples: a metric's name without its unit is the series.
func (s *session) recordMetrics(metrics probe.Metrics) {
	for _, name := range slices.Sorted(maps.Keys(metrics)) {
		if i := strings.LastIndexByte(name, '_'); i > 0 {
			s.value(name[:i], metrics[name], name[i+1:])
		}
	}
}

// amendProbes changes the system's probe report, which two steps write.
func (s *session) amendProbes(change func(*ProbeReport)) error {
	rel := probesDir + "/" + s.driver.System() + ".json"
	var r ProbeReport
	if err := s.files.read(rel, func(b []byte) error { return json.Unmarshal(b, &r) }); err != nil {
		return fmt.Errorf("amend probe report: %w", err)
	}
	change(&r)
	return s.files.writeJSON(rel, r)
}
