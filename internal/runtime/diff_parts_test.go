package runtime

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// The parts of a comparison with a snapshot are of one comparison: the snapshot is restored once, and not for longer than that.
func TestDiffPartsOfCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		s := w.session(t, SessionSpec{Budget: Budget{Sandboxes: 2}})
		box := s.mustCreate(t, SandboxSpec{Idle: IdlePolicy{Kill: -1}})
		snap, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box})
		if err != nil {
			t.Fatal(err)
		}
		const files = 25
		write := func(what string) {
			t.Helper()
			var line []string
			for i := range files {
				line = append(line, fmt.Sprintf("write /tmp/%03d %s", i, what))
			}
			s.mustRun(t, box, strings.Join(line, "; "))
		}
		write("one")
		part := func(req DiffRequest, changes int) DiffResult {
			t.Helper()
			req.Sandbox, req.Other = snap.ID, box
			res, err := s.Diff(t.Context(), req)
			if err != nil || len(res.Changes) != changes || res.A != snap.ID || res.B != box || s.Sandboxes() != 1 || used(t, s.Budget(), Sandboxes) != 1 {
				t.Fatalf("after %q: %+v, %v", req.After, res, err)
			}
			return res
		}
		kept := func() bool {
			s.parts.mu.Lock()
			defer s.parts.mu.Unlock()
			return s.parts.last != nil || s.parts.timer != nil
		}
		made := w.d.Made()
		first := part(DiffRequest{Max: 10}, 10)
		if first.Memory == nil || first.Paths < files {
			t.Errorf("%+v", first)
		}
		s.mustRun(t, box, "write /later x")
		second := part(DiffRequest{Max: 10, After: first.Next}, 10)
		again := part(DiffRequest{Max: 10, After: first.Next}, 10)
		third := part(DiffRequest{Max: 10, After: second.Next}, 5)
		if second.Changes[0].Path != "/tmp/010" || again.Changes[0].Path != "/tmp/010" || third.Changes[4].Path != "/tmp/024" || third.Next != "" || second.Memory != nil || second.Paths != 0 {
			t.Errorf("%+v\n%+v", second, third)
		}
		if n := w.d.Made() - made; n != 1 {
			t.Errorf("it was restored %d times", n)
		}
		// What is not known is compared: a path of nobody, the other way round, and what is asked for late.
		part(DiffRequest{Max: 10, After: "/tmp/0105"}, 10)
		if n := w.d.Made() - made; n != 2 {
			t.Errorf("it was restored %d times", n)
		}
		first = part(DiffRequest{Max: 10}, 10)
		if _, err := s.Diff(t.Context(), DiffRequest{Sandbox: box, Other: snap.ID, Max: 10, After: first.Next}); err != nil {
			t.Fatal(err)
		}
		if n := w.d.Made() - made; n != 4 {
			t.Errorf("it was restored %d times", n)
		}
		part(DiffRequest{Max: 10}, 10)
		time.Sleep(keptParts + time.Second)
		if kept() {
			t.Error("it is kept for too long")
		}
		part(DiffRequest{Max: 10, After: first.Next}, 10)
		if n := w.d.Made() - made; n != 6 {
			t.Errorf("it was restored %d times", n)
		}
		// Who may not restore, who only looks, and what is not there any more, get none of it.
		first = part(DiffRequest{Max: 10}, 10)
		next := DiffRequest{Sandbox: snap.ID, Other: box, After: first.Next}
		_, err = s.Diff(Look(t.Context()), next)
		want(t, "a look", err, CodeDenied)
		if err := s.RemoveSnapshot(t.Context(), snap.ID); err != nil {
			t.Fatal(err)
		}
		_, err = s.Diff(t.Context(), next)
		want(t, "removed", err, CodeNotFound)
		if err := s.Close(); err != nil || kept() {
			t.Errorf("%v", err)
		}
	})
}

// What is kept for later parts is bounded; what is beyond is compared anew, from there on.
func TestDiffPartsAreBounded(t *testing.T) {
	c := &comparison{}
	take := c.collect(3, 100)
	names := []string{"/a", "/b", "/c", "/d"}
	var err error
	for _, name := range names {
		if err = take(changed(name)); err != nil {
			break
		}
	}
	if err == nil || len(c.changes) != 3 || c.next != "/c" {
		t.Errorf("%v, %+v", err, c)
	}
	c.a, c.b = "sb1", "sn1"
	var p diffParts
	p.keep(c)
	defer p.forget()
	if res, ok := p.later(DiffRequest{Sandbox: "sb1", Other: "sn1", After: "/a", Max: 10}); !ok || len(res.Changes) != 2 || res.Next != "/c" {
		t.Errorf("%+v, %t", res, ok)
	}
	if _, ok := p.later(DiffRequest{Sandbox: "sb1", Other: "sn1", After: "/c", Max: 10}); ok {
		t.Error("what was not compared is not known")
	}
	c = &comparison{}
	take = c.collect(1000, 10)
	if err := take(changed("/" + strings.Repeat("x", 20))); err != nil { // one has to be
		t.Error(err)
	}
	if err := take(changed("/y")); err == nil || len(c.changes) != 1 {
		t.Errorf("%+v", c)
	}
}

func changed(name string) sandbox.FileChange {
	return sandbox.FileChange{Path: name, A: &sandbox.FileState{}}
}
