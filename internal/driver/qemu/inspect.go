package qemu

import (
	"context"

	"github.com/aethervm/aether/sandbox"
)

// HostProcesses is sandbox.Inspector's.
func (s *Sandbox) HostProcesses(context.Context) ([]sandbox.HostProcess, error) {
	if s.alive.Err() != nil {
		return nil, s.ended("inspect")
	}
	return []sandbox.HostProcess{{PID: s.machine.pid, Role: sandbox.RoleGuest}}, nil
}

// Stats is sandbox.StatsReader's. Processes are those of programs; memory and CPU time are the
// guest's own account of them.
func (s *Sandbox) Stats(ctx context.Context) (stats sandbox.Stats, err error) {
	err = s.operate(ctx, "stats", func(ctx context.Context) error {
		st, err := s.channel.client.Stats(ctx)
		stats = sandbox.Stats{MemoryBytes: st.MemoryBytes, CPUNanos: st.CPUNanos, Processes: st.Processes}
		return err
	})
	return stats, err
}
