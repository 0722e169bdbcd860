package qemu

import (
	"context"
	"sync"

	"github.com/aethervm/aether/internal/agentsandbox"
	"github.com/aethervm/aether/sandbox"
)

// Sandbox is a virtual machine. Beside sandbox.Sandbox it implements Pauser, Snapshotter, Inspector
// and StatsReader.
type Sandbox struct {
	*agentsandbox.Sandbox

	id      string
	spec    sandbox.Spec
	about   about
	config  machineConfig
	machine *machine

	// state guards what the machine as a whole is doing: pause, resume, snapshot.
	state  sync.Mutex
	paused bool
}

// bringUp makes a machine that was just started ready for Exec.
func (s *Sandbox) bringUp(ctx context.Context, restored bool) error {
	connect := func(ctx context.Context) (agentsandbox.Channel, error) {
		if restored {
			if err := s.resumeRestored(ctx); err != nil {
				return nil, err
			}
		}
		return openChannel(ctx, s.machine)
	}
	introduce := s.Configure
	if restored {
		// Programs are still frozen: they see nothing of the past.
		introduce = s.Client.ThawCopy
	}
	return s.BringUp(ctx, connect, introduce)
}

// typed makes a sandbox.Error of any error that is none yet.
func typed(op string, err error) error { return agentsandbox.Typed(op, System, "", err) }

func findTool(name, pkg string) (string, error) { return agentsandbox.FindTool(System, name, pkg) }
