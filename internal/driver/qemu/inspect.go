package qemu

import (
	"context"

	"github.com/aethervm/aether/sandbox"
)

// HostProcesses is sandbox.Inspector's.
func (s *Sandbox) HostProcesses(context.Context) ([]sandbox.HostProcess, error) {
	if err := s.Ended("inspect"); err != nil {
		return nil, err
	}
	ram := int64(s.config.memoryMiB+kernelMiB) << 20
	return []sandbox.HostProcess{{PID: s.machine.pid, Role: sandbox.RoleGuest, GuestRAM: ram}}, nil
}
