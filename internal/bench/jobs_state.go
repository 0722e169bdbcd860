package bench

import (
	"context"
	"fmt"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

func jobPause(ctx context.Context, a *agent) error {
	p, ok := a.sb.(sandbox.Pauser)
	if !ok {
		return lacks("a sandbox cannot be paused")
	}
	if err := p.Pause(ctx); err != nil {
		return err
	}
	if err := p.Resume(ctx); err != nil {
		return err
	}
	_, err := run(ctx, a.sb, "true")
	return err
}

const stateFile = "/var/tmp/agent-state"

func jobSnapshot(ctx context.Context, a *agent) error {
	if err := a.sb.WriteFile(ctx, stateFile, strings.NewReader("saved"), 0o600); err != nil {
		return err
	}
	snap, err := a.snapshot(ctx)
	if err != nil {
		return err
	}
	copied, err := a.restore(ctx, snap)
	if err != nil {
		return err
	}
	content, err := readAll(ctx, copied, stateFile)
	if err != nil {
		return err
	}
	if err := same("the file", string(content), "saved"); err != nil {
		return err
	}
	return copied.Close()
}

func jobRollback(ctx context.Context, a *agent) error {
	if err := a.sb.WriteFile(ctx, stateFile, strings.NewReader("good"), 0o600); err != nil {
		return err
	}
	snap, err := a.snapshot(ctx)
	if err != nil {
		return err
	}
	if _, err := run(ctx, a.sb, "sh", "-c", "rm -rf /var/tmp/* /usr/bin/python3*"); err != nil {
		return err
	}
	if err := a.sb.Close(); err != nil {
		return err
	}
	if a.sb, err = a.restore(ctx, snap); err != nil {
		return err
	}
	content, err := readAll(ctx, a.sb, stateFile)
	if err != nil {
		return err
	}
	if err := same("the file", string(content), "good"); err != nil {
		return err
	}
	_, err = run(ctx, a.sb, "python3", "-c", "pass")
	return err
}

// snapshot saves the shared sandbox.
func (a *agent) snapshot(ctx context.Context) (sandbox.Snapshot, error) {
	saver, ok := a.sb.(sandbox.Snapshotter)
	if !ok {
		return sandbox.Snapshot{}, lacks("a sandbox cannot be saved")
	}
	dir, err := a.s.scratch.dir()
	if err != nil {
		return sandbox.Snapshot{}, err
	}
	snap, err := saver.Snapshot(ctx, dir)
	if err != nil {
		return snap, err
	}
	return snap, a.s.ownSnapshot(snap)
}

// restore makes a sandbox from snap. On error it returns no sandbox.
func (a *agent) restore(ctx context.Context, snap sandbox.Snapshot) (sandbox.Sandbox, error) {
	r, ok := a.s.driver.(sandbox.Restorer)
	if !ok {
		return nil, lacks("nothing can be made from a snapshot")
	}
	sb, err := r.Restore(ctx, snap)
	if err != nil {
		return nil, err
	}
	if err := a.s.own(sb); err != nil {
		return nil, err
	}
	return sb, nil
}

func jobStats(ctx context.Context, a *agent) error {
	reader, ok := a.sb.(sandbox.StatsReader)
	if !ok {
		return lacks("a sandbox does not tell what it uses")
	}
	// Something to count: where a program's supervisor is no process of its own, an idle sandbox
	// has none.
	background := sandbox.Cmd{Args: []string{"sh", "-c", "sleep 30 >/dev/null 2>&1 &"}}
	if _, err := runCmd(ctx, a.sb, background); err != nil {
		return err
	}
	stats, err := reader.Stats(ctx)
	if err != nil {
		return err
	}
	if stats.MemoryBytes <= 0 || stats.Processes <= 0 {
		return fmt.Errorf("memory %d bytes, %d processes", stats.MemoryBytes, stats.Processes)
	}
	return nil
}
