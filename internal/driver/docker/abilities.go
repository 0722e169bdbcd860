package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/aethervm/aether/sandbox"
)

// Pause is Pauser.Pause, by the freezer of the container's cgroup.
func (s *Sandbox) Pause(ctx context.Context) error {
	return s.freeze(ctx, "pause", true, func(ctx context.Context) error {
		_, err := s.eng.cli.ContainerPause(ctx, s.container, client.ContainerPauseOptions{})
		return err
	})
}

// Resume is Pauser.Resume.
func (s *Sandbox) Resume(ctx context.Context) error {
	return s.freeze(ctx, "resume", false, func(ctx context.Context) error {
		_, err := s.eng.cli.ContainerUnpause(ctx, s.container, client.ContainerUnpauseOptions{})
		return err
	})
}

func (s *Sandbox) freeze(ctx context.Context, op string, want bool, do func(context.Context) error) error {
	ctx, stop, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer stop()
	err = do(ctx)
	if err == nil {
		return nil
	}
	// The engine refuses what is done already, with different codes for the two.
	found, inspectErr := s.eng.cli.ContainerInspect(ctx, s.container, client.ContainerInspectOptions{})
	if inspectErr == nil && found.Container.State != nil && found.Container.State.Running && found.Container.State.Paused == want {
		return nil
	}
	return s.fail(ctx, op, err)
}

// Stats is StatsReader.Stats. Processes counts threads too, which is what the engine's limit counts.
func (s *Sandbox) Stats(ctx context.Context) (sandbox.Stats, error) {
	ctx, stop, err := s.enter(ctx)
	if err != nil {
		return sandbox.Stats{}, err
	}
	defer stop()
	reply, err := s.eng.cli.ContainerStats(ctx, s.container, client.ContainerStatsOptions{})
	if err != nil {
		return sandbox.Stats{}, s.fail(ctx, "stats", err)
	}
	defer func() { _ = reply.Body.Close() }()
	var raw container.StatsResponse
	if err := json.NewDecoder(reply.Body).Decode(&raw); err != nil {
		return sandbox.Stats{}, s.fail(ctx, "stats", fmt.Errorf("read the engine's reply: %w", err))
	}
	if raw.PidsStats.Current == 0 {
		// The engine answers with zeros for a container that does not run.
		if why := s.obituary(ctx); why != "" {
			return sandbox.Stats{}, &sandbox.Error{Op: "stats", System: system, Sandbox: s.id, Err: sandbox.ErrDead, Detail: why}
		}
	}
	var sent uint64
	for _, card := range raw.Networks {
		sent += card.TxBytes
	}
	return sandbox.Stats{
		SentBytes:   int64(min(sent, math.MaxInt64)),
		MemoryBytes: int64(workingSet(raw.MemoryStats)),
		CPUNanos:    int64(raw.CPUStats.CPUUsage.TotalUsage),
		Processes:   int(raw.PidsStats.Current),
	}, nil
}

// workingSet is the memory in use without the page cache that the kernel gives back at once, as
// `docker stats` shows it. The name of the counter depends on the version of cgroups.
func workingSet(m container.MemoryStats) uint64 {
	for _, key := range []string{"total_inactive_file", "inactive_file"} {
		if cache, ok := m.Stats[key]; ok && cache < m.Usage {
			return m.Usage - cache
		}
	}
	return m.Usage
}
