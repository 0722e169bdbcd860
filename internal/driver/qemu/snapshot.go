package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/sandbox"
)

// savedState is a machine on disk.
type savedState struct {
	file *os.File
}

// Files of a snapshot.
const (
	stateName = "state"
	aboutName = "machine.json"
)

// about is what a saved state depends on beside the spec. Another QEMU, or the same one with another
// CPU, would refuse it at best.
type about struct {
	QEMU        string `json:"qemu"`
	Accelerator string `json:"accelerator"`
	Kernel      string `json:"kernel"`
}

// Pause is sandbox.Pauser's.
func (s *Sandbox) Pause(ctx context.Context) error {
	s.state.Lock()
	defer s.state.Unlock()
	return s.Operate(ctx, "pause", func(ctx context.Context) error {
		if s.paused {
			return nil
		}
		s.Client.Drop() // who asks for something meanwhile is to wait outside, and may give up there
		if err := s.machine.monitor.Run(ctx, "stop", nil, nil); err != nil {
			return err
		}
		s.Client.Drop() // that of an operation that has ended meanwhile
		s.paused = true
		return nil
	})
}

// Resume is sandbox.Pauser's. The guest's wall clock is set right.
func (s *Sandbox) Resume(ctx context.Context) error {
	s.state.Lock()
	defer s.state.Unlock()
	return s.Operate(ctx, "resume", func(ctx context.Context) error {
		if !s.paused {
			return nil
		}
		if err := s.machine.monitor.Run(ctx, "cont", nil, nil); err != nil {
			return err
		}
		s.paused = false
		return s.Client.Configure(ctx, agentproto.Config{Now: time.Now()})
	})
}

// Snapshot is sandbox.Snapshotter's. Programs are frozen by the agent before the machine is stopped,
// so that a copy sets clock and random numbers right before any program of it runs.
func (s *Sandbox) Snapshot(ctx context.Context, dir string) (snap sandbox.Snapshot, err error) {
	s.state.Lock()
	defer s.state.Unlock()
	err = s.Operate(ctx, "snapshot", func(ctx context.Context) error {
		snap, err = s.snapshot(ctx, dir)
		return err
	})
	return snap, err
}

func (s *Sandbox) snapshot(ctx context.Context, dir string) (snap sandbox.Snapshot, err error) {
	if s.paused {
		return snap, &sandbox.Error{Op: "snapshot", System: System, Sandbox: s.id, Err: sandbox.ErrUnsupported,
			Detail: "the sandbox is paused, so its programs cannot be prepared", Remedy: "resume it first"}
	}
	file, err := os.OpenFile(filepath.Join(dir, stateName), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return snap, err
	}
	defer func() {
		err = errors.Join(err, file.Close())
		if err != nil {
			err = errors.Join(err, removeSnapshot(dir))
		}
	}()
	if err := writeAbout(dir, s.about); err != nil {
		return snap, err
	}
	if err := s.Client.Freeze(ctx); err != nil {
		return snap, err
	}
	s.Client.Drop()
	// Whatever comes, the machine goes on, also when ctx has ended.
	saveErr := s.save(ctx, file)
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawPatience)
	defer cancel()
	thawErr := s.Client.Thaw(after, agentproto.Config{Now: time.Now()})
	if err := errors.Join(saveErr, thawErr); err != nil {
		return snap, err
	}
	info, err := file.Stat()
	if err != nil {
		return snap, err
	}
	return sandbox.Snapshot{System: System, Kind: sandbox.SnapshotFull, Ref: dir, Bytes: info.Size(), Spec: s.spec}, nil
}

const thawPatience = 30 * time.Second

// migration is QEMU's answer to query-migrate.
type migration struct {
	Status    string `json:"status"`
	ErrorDesc string `json:"error-desc"`
}

// save stops the machine, writes its state to a file, and lets it go on.
func (s *Sandbox) save(ctx context.Context, file *os.File) (err error) {
	monitor := s.machine.monitor
	if err := monitor.Run(ctx, "stop", nil, nil); err != nil {
		return err
	}
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawPatience)
		defer cancel()
		if err != nil {
			// Nothing may be going on that wants the machine stopped.
			_ = monitor.Run(after, "migrate_cancel", nil, nil)
		}
		err = errors.Join(err, monitor.Run(after, "cont", nil, nil))
	}()
	// QEMU's default is that of a network of 2008.
	unlimited := map[string]any{"max-bandwidth": int64(1) << 40}
	if err := monitor.Run(ctx, "migrate-set-parameters", unlimited, nil); err != nil {
		return err
	}
	if err := monitor.SendFile(ctx, stateName, file); err != nil {
		return err
	}
	if err := monitor.Run(ctx, "migrate", map[string]string{"uri": "fd:" + stateName}, nil); err != nil {
		return err
	}
	for {
		var m migration
		if err := monitor.Run(ctx, "query-migrate", nil, &m); err != nil {
			return err
		}
		switch m.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("save the machine: %s: %s", m.Status, m.ErrorDesc)
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Restore is sandbox.Restorer's.
func (d *Driver) Restore(ctx context.Context, snap sandbox.Snapshot) (sandbox.Sandbox, error) {
	const op = "restore"
	if snap.System != System || snap.Kind != sandbox.SnapshotFull {
		return nil, &sandbox.Error{Op: op, System: System, Err: sandbox.ErrInvalid,
			Detail: fmt.Sprintf("the snapshot is of system %q and kind %q", snap.System, snap.Kind)}
	}
	spec, err := snap.Spec.WithDefaults()
	if err != nil {
		return nil, err
	}
	file, err := os.Open(filepath.Join(snap.Ref, stateName))
	if err != nil {
		return nil, typed(op, err)
	}
	defer file.Close()
	saved, err := readAbout(snap.Ref)
	if err != nil {
		return nil, typed(op, err)
	}
	h, err := d.host(ctx)
	if err != nil {
		return nil, typed(op, err)
	}
	if saved != h.about {
		return nil, &sandbox.Error{Op: op, System: System, Err: sandbox.ErrUnsupported,
			Detail: fmt.Sprintf("the snapshot was taken with %+v, here is %+v", saved, h.about),
			Remedy: "take the snapshot again"}
	}
	return d.start(ctx, op, spec, &savedState{file: file})
}

// RemoveSnapshot is sandbox.Restorer's.
func (d *Driver) RemoveSnapshot(_ context.Context, snap sandbox.Snapshot) error {
	if snap.System != System {
		return &sandbox.Error{Op: "remove snapshot", System: System, Err: sandbox.ErrInvalid,
			Detail: fmt.Sprintf("the snapshot is of system %q", snap.System)}
	}
	if err := removeSnapshot(snap.Ref); err != nil {
		return typed("remove snapshot", err)
	}
	return nil
}

func removeSnapshot(dir string) error {
	var errs []error
	for _, name := range []string{stateName, aboutName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func writeAbout(dir string, a about) error {
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, aboutName), data, 0o600)
}

func readAbout(dir string) (about, error) {
	var a about
	data, err := os.ReadFile(filepath.Join(dir, aboutName))
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return a, fmt.Errorf("%w: %s of the snapshot: %w", sandbox.ErrInvalid, aboutName, err)
	}
	return a, nil
}

// resumeRestored waits until the saved state has been loaded. QEMU then goes on by itself.
func (s *Sandbox) resumeRestored(ctx context.Context) error {
	for {
		var status struct {
			Status string `json:"status"`
		}
		if err := s.machine.monitor.Run(ctx, "query-status", nil, &status); err != nil {
			return err
		}
		if status.Status != "inmigrate" {
			if status.Status == "running" {
				return nil
			}
			return s.machine.monitor.Run(ctx, "cont", nil, nil)
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
