package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

// used is what a budget says of a resource that it bounds.
func used(t *testing.T, b BudgetState, r Resource) int64 {
	t.Helper()
	for _, l := range b.Lines {
		if l.Resource == r {
			return l.Used
		}
	}
	t.Errorf("the budget does not show %s: %+v", r, b)
	return -1
}

func (w *world) team(t *testing.T, b Budget) Tenant {
	t.Helper()
	tenant, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: "team", Budget: b})
	if err != nil {
		t.Fatal(err)
	}
	return tenant
}

func (w *world) sessionOf(t *testing.T, tenant string, b Budget) *Session {
	t.Helper()
	s, err := w.OpenSession(t.Context(), tenant, SessionSpec{Budget: b})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *world) tenantUses(t *testing.T, tenant string, r Resource) int64 {
	t.Helper()
	b, err := w.TenantBudget(tenant)
	if err != nil {
		t.Fatal(err)
	}
	return used(t, b, r)
}

// What is kept is bounded in number and bytes, of a tenant and of a session; a refusal says what there is and what helps, and what
// is removed is given back to who has made it.
func TestKeptBudget(t *testing.T) {
	const mib = 1 << 20
	w, k := keeping(t, nil)
	team := w.team(t, Budget{Snapshots: 3, Templates: 1, KeptBytes: 258 * mib})
	s := w.sessionOf(t, team.ID, Budget{Snapshots: 2})
	box := s.mustCreate(t, SandboxSpec{MemoryMiB: 256})
	var kept []SnapshotInfo
	for range 2 {
		info, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box})
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, info)
	}
	_, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box})
	if e := wantError(t, "the session's", err, CodeBudget); e.Budget.Of != "session" || e.Budget.Resource != Snapshots || e.Budget.Left != 0 || e.Budget.Wanted != 1 ||
		e.Budget.More != nil || !strings.Contains(e.Remedy, "remove a snapshot") {
		t.Errorf("%+v", e)
	}
	if n := w.tenantUses(t, team.ID, KeptBytes); n != 2*mib { // what was reserved beyond what they need is given back
		t.Errorf("%d bytes are used", n)
	}
	other := w.sessionOf(t, team.ID, Budget{})
	small := other.mustCreate(t, SandboxSpec{MemoryMiB: 64})
	if _, err := other.Snapshot(t.Context(), SnapshotRequest{Sandbox: small}); err != nil {
		t.Fatal(err)
	}
	_, err = other.Snapshot(t.Context(), SnapshotRequest{Sandbox: small})
	if e := wantError(t, "the tenant's", err, CodeBudget); e.Budget.Of != "tenant" || e.Budget.Resource != Snapshots {
		t.Errorf("%+v", e)
	}
	// It is the session that has made one which gets it back, whoever removes it, and also when it is closed.
	if err := other.RemoveSnapshot(t.Context(), kept[0].ID); err != nil || used(t, s.Budget(), Snapshots) != 1 {
		t.Errorf("%v, %+v", err, s.Budget())
	}
	if err := errors.Join(s.Close(), other.RemoveSnapshot(t.Context(), kept[1].ID)); err != nil {
		t.Error(err)
	}
	if n, b := w.tenantUses(t, team.ID, Snapshots), w.tenantUses(t, team.ID, KeptBytes); n != 1 || b != mib {
		t.Errorf("%d snapshots, %d bytes", n, b)
	}

	// A template needs its number while it is made, also one that takes the place of another; and bytes.
	made := other.mustTemplate(t, TemplateRequest{Name: "py", MemoryMiB: 256})
	_, err = other.CreateTemplate(t.Context(), TemplateRequest{Name: "py", MemoryMiB: 64})
	if e := wantError(t, "templates", err, CodeBudget); e.Budget.Resource != Templates || !strings.Contains(e.Remedy, "remove a template") {
		t.Errorf("%+v", e)
	}
	if _, err := w.SetBudget(t.Context(), team.ID, Budget{Snapshots: 3, Templates: 2, KeptBytes: 258 * mib}); err != nil {
		t.Fatal(err)
	}
	_, err = other.CreateTemplate(t.Context(), TemplateRequest{Name: "big", MemoryMiB: 257})
	if e := wantError(t, "bytes", err, CodeBudget); e.Budget.Resource != KeptBytes || e.Budget.Left != 256*mib || e.Budget.Wanted != 257*mib ||
		!strings.Contains(e.Remedy, "snapshots or templates") || !strings.Contains(e.Cause, "memory") {
		t.Errorf("%+v", e)
	}
	k.OnStage = func(_ context.Context, stage sandbox.TemplateStage) error {
		if n := w.tenantUses(t, team.ID, KeptBytes); n != 2*mib+64*mib {
			t.Errorf("%s: %d bytes are used", stage, n)
		}
		return nil
	}
	next := other.mustTemplate(t, TemplateRequest{Name: "py", MemoryMiB: 64})
	k.OnStage = func(context.Context, sandbox.TemplateStage) error { return errors.New("not now") }
	if _, err := other.CreateTemplate(t.Context(), TemplateRequest{Name: "fails", MemoryMiB: 64}); err == nil {
		t.Error("it was made")
	}
	if n, b := w.tenantUses(t, team.ID, Templates), w.tenantUses(t, team.ID, KeptBytes); n != 1 || b != 2*mib || next.ID == made.ID {
		t.Errorf("%d templates, %d bytes", n, b)
	}

	// The next process counts what there is, also if that is more than it may be.
	if _, err := w.SetBudget(t.Context(), team.ID, Budget{Snapshots: 1, Templates: 1, KeptBytes: mib}); err != nil {
		t.Fatal(err)
	}
	w.shut(t)
	w.reopen(t)
	if n, m, b := w.tenantUses(t, team.ID, Snapshots), w.tenantUses(t, team.ID, Templates), w.tenantUses(t, team.ID, KeptBytes); n != 1 || m != 1 || b != 2*mib {
		t.Errorf("%d snapshots, %d templates, %d bytes", n, m, b)
	}
	s = w.sessionOf(t, team.ID, Budget{})
	_, err = s.Snapshot(t.Context(), SnapshotRequest{Sandbox: s.mustCreate(t, SandboxSpec{MemoryMiB: 64})})
	want(t, "after a restart", err, CodeBudget)
	if err := s.RemoveTemplate(t.Context(), "py"); err != nil {
		t.Error(err)
	}
	if n, b := w.tenantUses(t, team.ID, Templates), w.tenantUses(t, team.ID, KeptBytes); n != 0 || b != mib {
		t.Errorf("%d templates, %d bytes", n, b)
	}
}

// What fails gives back what was reserved for it, and leaves nothing.
func TestKeptBudgetOfWhatFails(t *testing.T) {
	w := open(t, nil)
	team := w.team(t, Budget{Snapshots: 10, KeptBytes: 256 << 20})
	s := w.sessionOf(t, team.ID, Budget{})
	box := s.mustCreate(t, SandboxSpec{MemoryMiB: 256})
	nothing := func(what string) {
		t.Helper()
		if n, b := w.tenantUses(t, team.ID, Snapshots), w.tenantUses(t, team.ID, KeptBytes); n != 0 || b != 0 {
			t.Errorf("%s: %d snapshots, %d bytes", what, n, b)
		}
		if left, err := os.ReadDir(filepath.Join(w.dir, snapshotsName)); err != nil || len(left) != 0 {
			t.Errorf("%s: left: %v, %v", what, left, err)
		}
	}
	w.d.OnSnapshot = func(string) error { return errors.New("not now") }
	if _, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box}); err == nil {
		t.Error("it was taken")
	}
	nothing("the driver fails")
	// It takes more than the sandbox has memory, which nobody has foreseen.
	small := s.mustCreate(t, SandboxSpec{MemoryMiB: 64})
	if _, err := w.SetBudget(t.Context(), team.ID, Budget{Snapshots: 10, KeptBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	w.d.OnSnapshot = func(dir string) error {
		f, err := os.Create(filepath.Join(dir, "memory"))
		if err != nil {
			return err
		}
		_, err = f.Write(bytes.Repeat([]byte{1}, 65<<20))
		return errors.Join(err, f.Close())
	}
	_, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: small})
	if e := wantError(t, "it is bigger than its memory", err, CodeBudget); e.Budget.Resource != KeptBytes {
		t.Errorf("%+v", e)
	}
	nothing("bigger than its memory")
	if _, n := w.d.Left(); n != 0 {
		t.Errorf("%d snapshots are left", n)
	}
}

// Snapshots share files by hard links. Each counts once, until the last one that has it is gone, also in the next process.
func TestSharedBytesCountOnce(t *testing.T) {
	w := open(t, nil)
	team := w.team(t, Budget{KeptBytes: 1 << 30})
	base := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(base, bytes.Repeat([]byte{1}, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	w.d.OnSnapshot = func(dir string) error {
		return errors.Join(os.Link(base, filepath.Join(dir, "base")), os.WriteFile(filepath.Join(dir, "own"), bytes.Repeat([]byte{1}, 1<<20), 0o600))
	}
	s := w.sessionOf(t, team.ID, Budget{KeptBytes: 1 << 30})
	box := s.mustCreate(t, SandboxSpec{})
	var ids []string
	take := func(by *Session) {
		t.Helper()
		info, err := by.Snapshot(t.Context(), SnapshotRequest{Sandbox: box})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, info.ID)
	}
	is := func(what string, mib int64) {
		t.Helper()
		// The file system adds a little for itself.
		if n := w.tenantUses(t, team.ID, KeptBytes); n < mib<<20 || n > mib<<20+1<<18 {
			t.Errorf("%s: %d bytes, want %d MiB", what, n, mib)
		}
	}
	take(s)
	is("one", 5)
	take(s)
	take(s)
	is("three", 7)
	if err := os.Remove(base); err != nil { // as when a template is removed
		t.Fatal(err)
	}
	if err := s.RemoveSnapshot(t.Context(), ids[0]); err != nil {
		t.Error(err)
	}
	is("two", 6)
	w.shut(t)
	w.reopen(t)
	is("after a restart", 6)
	s = w.sessionOf(t, team.ID, Budget{})
	if err := s.RemoveSnapshot(t.Context(), ids[1]); err != nil {
		t.Error(err)
	}
	is("the last", 5)
	if err := s.RemoveSnapshot(t.Context(), ids[2]); err != nil || w.tenantUses(t, team.ID, KeptBytes) != 0 {
		t.Errorf("%v, %d bytes", err, w.tenantUses(t, team.ID, KeptBytes))
	}
}

// Snapshots that are taken at the same time never have more than there is, at any moment, and leave none of it taken.
func TestKeptBudgetRace(t *testing.T) {
	w := open(t, nil)
	const room = 3
	team := w.team(t, Budget{Snapshots: 100, KeptBytes: 64 << 20 * room})
	var now, most atomic.Int64
	w.d.OnSnapshot = func(string) error {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		return nil
	}
	s := w.sessionOf(t, team.ID, Budget{})
	var wg sync.WaitGroup
	var taken, refused atomic.Int64
	for i := range 8 {
		box := s.mustCreate(t, SandboxSpec{MemoryMiB: 64})
		wg.Go(func() {
			for range 20 {
				info, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box, Name: fmt.Sprint(i)})
				if n := w.tenantUses(t, team.ID, KeptBytes); n > 64<<20*room || n < 0 {
					t.Errorf("%d bytes", n)
				}
				switch CodeOf(err) {
				case CodeBudget:
					refused.Add(1)
					continue
				default:
					if err != nil {
						t.Error(err)
						return
					}
				}
				taken.Add(1)
				if err := s.RemoveSnapshot(t.Context(), info.ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if most.Load() > room || taken.Load() == 0 {
		t.Errorf("%d at the same time, %d taken, %d refused", most.Load(), taken.Load(), refused.Load())
	}
	if n, b := w.tenantUses(t, team.ID, Snapshots), w.tenantUses(t, team.ID, KeptBytes); n != 0 || b != 0 {
		t.Errorf("%d snapshots, %d bytes", n, b)
	}
}

// A snapshot that could not be removed is still counted, until it can.
func TestKeptBudgetOfWhatStays(t *testing.T) {
	w, k := keeping(t, nil)
	team := w.team(t, Budget{Templates: 5, KeptBytes: 1 << 30})
	s := w.sessionOf(t, team.ID, Budget{})
	s.mustTemplate(t, TemplateRequest{Name: "py"})
	k.OnRemove = func(string) error { return errors.New("not now") }
	if err := s.RemoveTemplate(t.Context(), "py"); err == nil || w.tenantUses(t, team.ID, Templates) != 1 || w.tenantUses(t, team.ID, KeptBytes) != 1<<20 {
		t.Errorf("%v, %+v", err, w.tenantUses(t, team.ID, Templates))
	}
	k.OnRemove = nil
	if err := s.RemoveTemplate(t.Context(), "py"); err != nil || w.tenantUses(t, team.ID, Templates) != 0 || w.tenantUses(t, team.ID, KeptBytes) != 0 {
		t.Errorf("%v, %+v", err, w.tenantUses(t, team.ID, Templates))
	}
}

// What a snapshot is refused for at the end and cannot be removed is counted, and has a name to be removed by. One whose remover
// leaves is not left by half.
func TestRefusedSnapshotThatStays(t *testing.T) {
	w := open(t, nil)
	team := w.team(t, Budget{Snapshots: 1, KeptBytes: 64 << 20})
	s := w.sessionOf(t, team.ID, Budget{})
	box := s.mustCreate(t, SandboxSpec{MemoryMiB: 64})
	w.d.OnSnapshot = func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "memory"), bytes.Repeat([]byte{1}, 65<<20), 0o600)
	}
	w.d.OnRemoveSnapshot = func(context.Context) error { return errors.New("not now") }
	_, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box})
	if err == nil {
		t.Fatal("it was taken")
	}
	is := func(what string, n int) []SnapshotInfo {
		t.Helper()
		list, err := s.Snapshots(t.Context())
		if counted := w.tenantUses(t, team.ID, Snapshots); err != nil || len(list) != n || counted != int64(n) {
			t.Fatalf("%s: %+v, %v, %d are counted", what, list, err, counted)
		}
		return list
	}
	id := is("refused", 1)[0].ID
	_, err = s.Restore(t.Context(), RestoreRequest{Snapshot: id})
	want(t, "it is not whole", err, CodeNotFound)
	w.d.OnRemoveSnapshot = func(ctx context.Context) error { return ctx.Err() } // as a driver does that waits for a lock
	if err := w.removeSnapshot(cancelled(), w.snapshots[id]); err != nil {
		t.Error(err)
	}
	is("removed", 0)
	if _, n := w.d.Left(); n != 0 {
		t.Errorf("%d snapshots are left", n)
	}
}

// Where the limit itself is too small, to remove something is no remedy.
func TestKeptBudgetBelowOneSandbox(t *testing.T) {
	w := open(t, nil)
	s := w.sessionOf(t, w.team(t, Budget{KeptBytes: 64 << 20}).ID, Budget{})
	box := s.mustCreate(t, SandboxSpec{MemoryMiB: 128})
	_, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box})
	if e := wantError(t, "more than there ever is", err, CodeBudget); !strings.Contains(e.Remedy, "less memory") || strings.Contains(e.Remedy, "not needed") {
		t.Errorf("%+v", e)
	}
}
