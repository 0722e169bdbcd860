package runtime

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

func TestFork(t *testing.T) {
	noLeaks(t)
	for name, change := range map[string]func(*runtimetest.Driver){
		"snapshot": func(*runtimetest.Driver) {},
		"files":    func(d *runtimetest.Driver) { d.Kind = sandbox.SnapshotFiles },
		"forker":   func(d *runtimetest.Driver) { d.Forks = true },
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, nil)
			change(w.d)
			s := w.session(t, SessionSpec{})
			box := s.mustCreate(t, SandboxSpec{MemoryMiB: 128})
			s.mustRun(t, box, "write /tmp/f parent")
			res, err := s.Fork(t.Context(), ForkRequest{Sandbox: box, Runs: []RunRequest{
				{Shell: "env AETHER_FORK; write /tmp/f one; cat /tmp/f"}, {Shell: "cat /tmp/f; exit 7"}, {Shell: "nonsense"}}})
			if err != nil {
				t.Fatal(err)
			}
			c := res.Children
			if len(c) != 3 || c[0].Run.Stdout != "0\none" || c[1].Run.Stdout != "parent" || *c[1].Run.ExitCode != 7 || c[2].Error.Code != CodeCannotRun ||
				c[0].Sandbox.Parent != box || c[0].Sandbox.MemoryMiB != 128 || (res.Kind == sandbox.SnapshotFiles) != (name == "files") {
				t.Errorf("%+v", res)
			}
			if res := s.mustRun(t, box, "cat /tmp/f"); res.Stdout != "parent" {
				t.Errorf("the parent has %q", res.Stdout)
			}
			if _, snapshots := w.d.Left(); snapshots != 0 {
				t.Errorf("%d snapshots are left", snapshots)
			}
			for n, req := range map[string]ForkRequest{
				"too many":   {Count: 65},
				"negative":   {Count: -1},
				"mismatch":   {Count: 3, Runs: make([]RunRequest, 2)},
				"background": {Runs: []RunRequest{{Shell: "true", Background: true}}},
			} {
				req.Sandbox = box
				_, err := s.Fork(t.Context(), req)
				want(t, n, err, CodeInvalid)
			}
		})
	}
}

func TestForkIsAllOrNone(t *testing.T) {
	noLeaks(t)
	w := open(t, nil)
	w.d.CreateTime = 5 * time.Millisecond
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	var n atomic.Int64
	w.d.OnCreate = func(context.Context, sandbox.Spec) error {
		if n.Add(1) == 5 {
			return errors.New("the fifth fails")
		}
		return nil
	}
	_, err := s.Fork(t.Context(), ForkRequest{Sandbox: box, Count: 8})
	if CodeOf(err) != CodeInternal || !strings.Contains(err.Error(), "fifth") {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Millisecond)
	defer cancel()
	_, err = s.Fork(ctx, ForkRequest{Sandbox: box, Count: 32})
	want(t, "cancelled", err, CodeCancelled)
	if boxes, snapshots := w.d.Left(); boxes != 1 || snapshots != 0 {
		t.Errorf("%d sandboxes and %d snapshots are left", boxes, snapshots)
	}
}

func TestForkWhereItCannot(t *testing.T) {
	able := runtimetest.New("docker")
	w := open(t, nil, able)
	w.d.NoSnapshot = true
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{System: "gvisor"})
	_, err := s.Fork(t.Context(), ForkRequest{Sandbox: box})
	if e := wantError(t, "fork", err, CodeUnsupported); !strings.Contains(e.Remedy, "docker") {
		t.Error(e)
	}
	_, err = s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box})
	want(t, "snapshot", err, CodeUnsupported)
}

func TestSnapshotAndRollback(t *testing.T) {
	noLeaks(t)
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{TTL: time.Hour})
	code := func(id, code string) string {
		t.Helper()
		res, err := s.Code(t.Context(), CodeRequest{Sandbox: id, Code: code})
		if err != nil {
			t.Fatal(err)
		}
		return res.Value
	}
	code(box, "x = before")
	snap, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box, Name: "good"})
	if err != nil || snap.Kind != sandbox.SnapshotFull || snap.Image != "base" || snap.Bytes == 0 {
		t.Fatalf("%+v, %v", snap, err)
	}
	code(box, "x = after")
	process := s.mustStart(t, box, "sleep 1000")
	info, err := s.Rollback(t.Context(), RollbackRequest{Sandbox: box, Snapshot: snap.ID})
	if err != nil || info.ID != box || info.ExpiresIn == nil {
		t.Fatalf("%+v, %v", info, err)
	}
	if got := code(box, "x"); got != "before" {
		t.Errorf("x is %q", got)
	}
	p, err := s.Poll(t.Context(), PollRequest{Process: process, Wait: time.Minute})
	if err != nil || p.Running || p.Error == nil || !strings.Contains(p.Error.Cause, "rolled back") {
		t.Errorf("%+v, %v", p, err)
	}
	// Another session of the tenant, later.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = w.session(t, SessionSpec{})
	restored, err := s.Restore(t.Context(), RestoreRequest{Snapshot: snap.ID, Labels: map[string]string{"a": "b"}})
	if err != nil || restored.Snapshot != snap.ID || restored.Labels["a"] != "b" || restored.ExpiresIn != nil {
		t.Fatalf("%+v, %v", restored, err)
	}
	if got := code(restored.ID, "x"); got != "before" {
		t.Errorf("x is %q", got)
	}
	other := s.mustCreate(t, SandboxSpec{MemoryMiB: 512})
	_, err = s.Rollback(t.Context(), RollbackRequest{Sandbox: other, Snapshot: snap.ID})
	want(t, "of another size", err, CodeConflict)
	other = s.mustCreate(t, SandboxSpec{Image: "another"})
	_, err = s.Rollback(t.Context(), RollbackRequest{Sandbox: other, Snapshot: snap.ID})
	want(t, "of another image", err, CodeConflict)
	if err := s.RemoveSnapshot(t.Context(), snap.ID); err != nil {
		t.Fatal(err)
	}
	_, err = s.Restore(t.Context(), RestoreRequest{Snapshot: snap.ID})
	want(t, "removed", err, CodeNotFound)
	code(restored.ID, "x")
	if _, snapshots := w.d.Left(); snapshots != 0 {
		t.Errorf("%d snapshots are left", snapshots)
	}
}
