package runtime

import (
	"errors"
	"testing"

	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// A sandbox is compared with a snapshot either way round. What the snapshot is restored to is seen by nobody, paid for, and gone
// afterwards, whatever went wrong.
func TestDiffCheckpoint(t *testing.T) {
	noLeaks(t)
	w := open(t, nil, runtimetest.New("docker"))
	s := w.session(t, SessionSpec{Budget: Budget{Sandboxes: 2, MemoryMiB: 512, SandboxSeconds: 1000}})
	box := s.mustCreate(t, SandboxSpec{})
	s.mustRun(t, box, "write /tmp/f one; write /tmp/old x")
	snap, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box})
	if err != nil {
		t.Fatal(err)
	}
	s.mustRun(t, box, "write /tmp/f two; write /tmp/new x")
	if err := s.Remove(t.Context(), box, "/tmp/old"); err != nil {
		t.Fatal(err)
	}
	compare := func(a, b string) string {
		t.Helper()
		res, err := s.Diff(t.Context(), DiffRequest{Sandbox: a, Other: b})
		if err != nil {
			t.Fatal(err)
		}
		if res.A != a || res.B != b || s.Sandboxes() != 1 {
			t.Errorf("%+v, %d sandboxes", res, s.Sandboxes())
		}
		text := ""
		for _, c := range res.Changes {
			text += string(c.Kind) + " " + c.Path + "\n"
		}
		return text
	}
	if got := compare(snap.ID, box); got != "changed /tmp/f\nadded /tmp/new\nremoved /tmp/old\n" {
		t.Errorf("since: %s", got)
	}
	if got := compare(box, snap.ID); got != "changed /tmp/f\nremoved /tmp/new\nadded /tmp/old\n" {
		t.Errorf("back: %s", got)
	}
	left := func(what string) {
		t.Helper()
		if n, _ := w.d.Left(); n != s.Sandboxes() || s.ledger.used[Sandboxes] != int64(n) {
			t.Errorf("%s: %d sandboxes are there, %d are the session's, %d counted", what, n, s.Sandboxes(), s.ledger.used[Sandboxes])
		}
	}
	left("compared")

	_, err = s.Diff(t.Context(), DiffRequest{Sandbox: snap.ID, Other: snap.ID[:2] + "aaaaaaaaaa"})
	want(t, "two snapshots", err, CodeInvalid)
	_, err = s.Diff(t.Context(), DiffRequest{Sandbox: "snaaaaaaaaaa", Other: box})
	want(t, "none", err, CodeNotFound)
	_, err = s.Diff(Look(t.Context()), DiffRequest{Sandbox: snap.ID, Other: box})
	want(t, "a look", err, CodeDenied)
	stranger := w.tenantSession(t, "other")
	_, err = stranger.Diff(t.Context(), DiffRequest{Sandbox: snap.ID, Other: stranger.mustCreate(t, SandboxSpec{})})
	want(t, "another tenant's", err, CodeNotFound)
	if err := stranger.Close(); err != nil {
		t.Error(err)
	}
	other := s.mustCreate(t, SandboxSpec{Image: "else"})
	_, err = s.Diff(t.Context(), DiffRequest{Sandbox: snap.ID, Other: other})
	want(t, "another image", err, CodeInvalid)
	_, err = s.Diff(t.Context(), DiffRequest{Sandbox: snap.ID, Other: box})
	want(t, "no room for it", err, CodeBudget)
	if err := s.Kill(t.Context(), other); err != nil {
		t.Error(err)
	}
	reader := w.session(t, SessionSpec{Capabilities: []Capability{CanRead, CanExec}})
	_, err = reader.Diff(t.Context(), DiffRequest{Sandbox: snap.ID, Other: reader.mustCreate(t, SandboxSpec{})})
	want(t, "without fork", err, CodeDenied)
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
	// It cannot be restored, and cannot be closed.
	w.d.OnClose = func(string) error { return errors.New("not now") }
	_ = compare(snap.ID, box)
	w.d.OnClose = nil
	left("not closed")
	if err := w.d.RemoveSnapshot(t.Context(), sandbox.Snapshot{Ref: w.snapshots[snap.ID].Saved.Ref}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Diff(t.Context(), DiffRequest{Sandbox: snap.ID, Other: box})
	if CodeOf(err) != CodeNotFound {
		t.Errorf("lost: %v", err)
	}
	left("not restored")
	if n := w.images.Held(); n != 1 { // of the box and the snapshot together
		t.Errorf("%d images are held", n)
	}
}
