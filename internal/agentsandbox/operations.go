package agentsandbox

import (
	"context"
	"io"
	"io/fs"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/sandbox"
)

// Exec is sandbox.Sandbox's.
func (s *Sandbox) Exec(ctx context.Context, cmd sandbox.Cmd) (sandbox.Exit, error) {
	start := time.Now()
	if err := cmd.Check(); err != nil {
		return sandbox.Exit{}, err
	}
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	var exit agentproto.Exit
	err := s.Operate(ctx, "exec", func(ctx context.Context) (err error) {
		exit, err = s.Client.Exec(ctx, agentproto.Exec{
			Args: cmd.Args, Env: sandbox.Environ(s.cfg.Spec.Image.Env, s.cfg.Spec.Env, cmd.Environment()), Dir: cmd.Dir,
			Timeout: cmd.Timeout, Terminal: cmd.Terminal,
		}, cmd.Stdin, cmd.Stdout, cmd.Stderr)
		return err
	})
	if err != nil {
		return sandbox.Exit{}, err
	}
	return sandbox.Exit{Code: exit.Code, Signal: exit.Signal, TimedOut: exit.TimedOut, Duration: time.Since(start)}, nil
}

var _ sandbox.Connector = (*Sandbox)(nil)

// Connect is sandbox.Connector's.
func (s *Sandbox) Connect(ctx context.Context, name string, in io.Reader, out io.Writer) error {
	return s.onFile(ctx, "connect", name, func(ctx context.Context) error { return s.Client.Connect(ctx, name, in, out) })
}

// ReadFile is sandbox.Files'.
func (s *Sandbox) ReadFile(ctx context.Context, name string, w io.Writer) error {
	return s.onFile(ctx, "read", name, func(ctx context.Context) error { return s.Client.ReadFile(ctx, name, w) })
}

// ReadRange is sandbox.RangeReader's.
func (s *Sandbox) ReadRange(ctx context.Context, name string, offset, size int64, w io.Writer) error {
	if err := sandbox.CheckRange(offset, size); err != nil {
		return err
	}
	return s.onFile(ctx, "read", name, func(ctx context.Context) error { return s.Client.ReadRange(ctx, name, offset, size, w) })
}

// WriteFile is sandbox.Files'.
func (s *Sandbox) WriteFile(ctx context.Context, name string, r io.Reader, perm fs.FileMode) error {
	return s.onFile(ctx, "write", name, func(ctx context.Context) error { return s.Client.WriteFile(ctx, name, r, perm) })
}

// ReadDir is sandbox.Files'.
func (s *Sandbox) ReadDir(ctx context.Context, name string) (list []sandbox.FileInfo, err error) {
	err = s.onFile(ctx, "list", name, func(ctx context.Context) (err error) {
		list, err = s.Client.ReadDir(ctx, name)
		return err
	})
	return list, err
}

// Stat is sandbox.Files'.
func (s *Sandbox) Stat(ctx context.Context, name string) (info sandbox.FileInfo, err error) {
	err = s.onFile(ctx, "stat", name, func(ctx context.Context) (err error) {
		info, err = s.Client.Stat(ctx, name)
		return err
	})
	return info, err
}

// Remove is sandbox.Files'.
func (s *Sandbox) Remove(ctx context.Context, name string) error {
	return s.onFile(ctx, "remove", name, func(ctx context.Context) error { return s.Client.Remove(ctx, name) })
}

func (s *Sandbox) onFile(ctx context.Context, op, name string, f func(context.Context) error) error {
	if err := sandbox.CheckPath(name); err != nil {
		return err
	}
	return s.Operate(ctx, op, f)
}

// Stats is sandbox.StatsReader's. Processes are those of programs; memory and CPU time are the
// guest's own account of them.
func (s *Sandbox) Stats(ctx context.Context) (stats sandbox.Stats, err error) {
	err = s.Operate(ctx, "stats", func(ctx context.Context) error {
		st, err := s.Client.Stats(ctx)
		stats = sandbox.Stats{MemoryBytes: st.MemoryBytes, CPUNanos: st.CPUNanos, Processes: st.Processes}
		return err
	})
	return stats, err
}
