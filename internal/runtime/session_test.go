package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

func TestLifeOfASandbox(t *testing.T) {
	noLeaks(t)
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	info, err := s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{MemoryMiB: 128, Labels: map[string]string{"job": "x"}}})
	if err != nil {
		t.Fatal(err)
	}
	if info.System != "gvisor" || info.MemoryMiB != 128 || info.VCPUs != 1 || info.Image != "base" || info.State != StateRunning ||
		!strings.Contains(info.Why, "auto") || *info.KillIn != 1800 || *info.PauseIn != 120 || info.ExpiresIn != nil {
		t.Errorf("%+v", info)
	}
	res := s.mustRun(t, info.ID, "echo hello; stderr oops; exit 3")
	if *res.ExitCode != 3 || res.Stdout != "hello\n" || res.Stderr != "oops\n" || res.Truncated || res.Sandbox != info.ID {
		t.Errorf("%+v", res)
	}
	if _, err := s.Write(t.Context(), WriteRequest{Sandbox: info.ID, Path: "/new/dir/f", Text: "one\ntwo\nthree\n"}); err != nil {
		t.Fatal(err)
	}
	edit, err := s.Write(t.Context(), WriteRequest{Sandbox: info.ID, Path: "/new/dir/f", Edits: []Edit{{Old: "two", New: "2"}}})
	if err != nil || edit.Line != 2 || edit.Replaced != 1 {
		t.Errorf("%+v, %v", edit, err)
	}
	read, err := s.Read(t.Context(), ReadRequest{Sandbox: info.ID, Path: "/new/dir/f", Offset: 4, Max: 3})
	if err != nil || read.Text != "2\nt" || *read.Next != 7 || read.Size != 12 {
		t.Errorf("%+v, %v", read, err)
	}
	list, err := s.Read(t.Context(), ReadRequest{Sandbox: info.ID, Path: "/new"})
	if err != nil || !list.Dir || len(list.Entries) != 1 || list.Entries[0].Type != "dir" {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.Kill(t.Context(), info.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Kill(t.Context(), info.ID); err != nil {
		t.Errorf("killed twice: %v", err)
	}
	_, err = s.Run(t.Context(), RunRequest{Sandbox: info.ID, Shell: "true"})
	if e := wantError(t, "run in a killed one", err, CodeGone); !strings.Contains(e.Cause, "killed") {
		t.Error(e)
	}
}

// operations are all that take the ID of something: each is to be refused in the same words whether
// the thing is somebody else's or does not exist.
func operations(box, process, output, snapshot string) map[string]func(context.Context, *Session) error {
	return map[string]func(context.Context, *Session) error{
		"inspect":    func(ctx context.Context, s *Session) error { _, err := s.Inspect(ctx, box); return err },
		"egress log": func(ctx context.Context, s *Session) error { _, err := s.EgressLog(ctx, box); return err },
		"kill":       func(ctx context.Context, s *Session) error { return s.Kill(ctx, box) },
		"processes":  func(ctx context.Context, s *Session) error { _, err := s.Processes(ctx, box); return err },
		"run": func(ctx context.Context, s *Session) error {
			_, err := s.Run(ctx, RunRequest{Sandbox: box, Shell: "true"})
			return err
		},
		"run in background": func(ctx context.Context, s *Session) error {
			_, err := s.Run(ctx, RunRequest{Sandbox: box, Shell: "true", Background: true})
			return err
		},
		"code": func(ctx context.Context, s *Session) error {
			_, err := s.Code(ctx, CodeRequest{Sandbox: box, Code: "x"})
			return err
		},
		"read": func(ctx context.Context, s *Session) error {
			_, err := s.Read(ctx, ReadRequest{Sandbox: box, Path: "/etc/os-release"})
			return err
		},
		"write": func(ctx context.Context, s *Session) error {
			_, err := s.Write(ctx, WriteRequest{Sandbox: box, Path: "/tmp/f", Text: "x"})
			return err
		},
		"fork": func(ctx context.Context, s *Session) error {
			_, err := s.Fork(ctx, ForkRequest{Sandbox: box, Count: 1})
			return err
		},
		"diff": func(ctx context.Context, s *Session) error {
			_, err := s.Diff(ctx, DiffRequest{Sandbox: box, Other: "xx7777777778"})
			return err
		},
		"snapshot": func(ctx context.Context, s *Session) error {
			_, err := s.Snapshot(ctx, SnapshotRequest{Sandbox: box})
			return err
		},
		"rollback": func(ctx context.Context, s *Session) error {
			_, err := s.Rollback(ctx, RollbackRequest{Sandbox: box, Snapshot: snapshot})
			return err
		},
		"poll": func(ctx context.Context, s *Session) error {
			_, err := s.Poll(ctx, PollRequest{Process: process})
			return err
		},
		"write stdin": func(ctx context.Context, s *Session) error {
			_, err := s.WriteStdin(ctx, StdinRequest{Process: process, Data: "x"})
			return err
		},
		"attach": func(ctx context.Context, s *Session) error {
			_, err := s.Attach(ctx, AttachRequest{Process: process, Output: io.Discard})
			return err
		},
		"resize": func(ctx context.Context, s *Session) error {
			_, err := s.Resize(ctx, ResizeRequest{process, sandbox.DefaultTerminalSize()})
			return err
		},
		"read tree": func(ctx context.Context, s *Session) error {
			_, err := s.DownloadTree(ctx, TreeRequest{box, "/etc"}, io.Discard)
			return err
		},
		"write tree": func(ctx context.Context, s *Session) error {
			_, err := s.UploadTree(ctx, TreeRequest{box, "/tmp"}, strings.NewReader(""))
			return err
		},
		"signal": func(ctx context.Context, s *Session) error {
			_, err := s.Signal(ctx, SignalRequest{Process: process, Signal: "KILL"})
			return err
		},
		"output": func(ctx context.Context, s *Session) error {
			_, err := s.Output(ctx, OutputRequest{Output: output})
			return err
		},
		"restore": func(ctx context.Context, s *Session) error {
			_, err := s.Restore(ctx, RestoreRequest{Snapshot: snapshot})
			return err
		},
		"remove snapshot": func(ctx context.Context, s *Session) error { return s.RemoveSnapshot(ctx, snapshot) },
	}
}

func TestTenantIsolation(t *testing.T) {
	noLeaks(t)
	w := open(t, func(c *Config) { c.Limits.OutputShown = 256 })
	tenant := func(name string) *Session {
		tn, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		s, err := w.OpenSession(t.Context(), tn.ID, SessionSpec{ID: "main"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	alice, mallory := tenant("alice"), tenant("mallory")
	box := alice.mustCreate(t, SandboxSpec{})
	process := alice.mustStart(t, box, "sleep 1000")
	output := alice.mustRun(t, box, "flood 10000").Output
	snap, err := alice.Snapshot(t.Context(), SnapshotRequest{Sandbox: box})
	if err != nil {
		t.Fatal(err)
	}
	another, err := w.OpenSession(t.Context(), alice.tenant.ID, SessionSpec{ID: "other"})
	if err != nil {
		t.Fatal(err)
	}

	nothing := "xx7777777777"
	absent := operations(nothing, nothing, nothing, nothing)
	for name, theirs := range operations(box, process, output, snap.ID) {
		for who, s := range map[string]*Session{"another tenant": mallory, "another session": another} {
			if who == "another session" && (name == "restore" || name == "remove snapshot") {
				continue // snapshots are the tenant's
			}
			err := theirs(t.Context(), s)
			got := wantError(t, name+" by "+who, err, CodeNotFound)
			none := wantError(t, name+" of nothing", absent[name](t.Context(), s), CodeNotFound)
			hide := strings.NewReplacer(box, "ID", process, "ID", output, "ID", snap.ID, "ID", nothing, "ID")
			if a, b := hide.Replace(got.Error()), hide.Replace(none.Error()); a != b {
				t.Errorf("%s by %s: %q, but of what does not exist: %q", name, who, a, b)
			}
		}
	}
	l, err := mallory.List(t.Context())
	if err != nil || len(l.Sandboxes)+len(l.Processes)+len(l.Snapshots) != 0 {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err = alice.List(t.Context()); err != nil || len(l.Sandboxes) != 1 || len(l.Processes) != 1 || len(l.Snapshots) != 1 {
		t.Errorf("%+v, %v", l, err)
	}
	// A key of one is not that of another.
	for _, s := range []*Session{alice, mallory} {
		if info, err := s.Create(t.Context(), CreateRequest{Key: "same"}); err != nil || info.ID == box {
			t.Errorf("%+v, %v", info, err)
		}
	}
	if err := alice.RemoveSnapshot(t.Context(), snap.ID); err != nil {
		t.Error(err)
	}
}

func TestCapabilities(t *testing.T) {
	w := open(t, func(c *Config) { c.Limits.OutputShown = 256 })
	all := w.session(t, SessionSpec{ID: "all"})
	box := all.mustCreate(t, SandboxSpec{})
	process, output := all.mustStart(t, box, "sleep 1000"), all.mustRun(t, box, "flood 10000").Output
	needs := map[string]Capability{}
	for _, op := range []string{"inspect", "egress log", "processes", "read", "read tree", "poll", "output", "diff"} {
		needs[op] = CanRead
	}
	for _, op := range []string{"fork", "snapshot", "rollback", "restore", "remove snapshot"} {
		needs[op] = CanFork
	}
	none := w.session(t, SessionSpec{ID: "none", Capabilities: []Capability{}})
	reader := w.session(t, SessionSpec{ID: "reader", Capabilities: []Capability{CanRead}})
	for name, op := range operations(box, process, output, "sn2222222222") {
		e := wantError(t, name, op(t.Context(), none), CodeDenied)
		need := CanExec
		if n, ok := needs[name]; ok {
			need = n
		}
		if !strings.Contains(e.Cause, fmt.Sprintf("%q", need)) {
			t.Errorf("%s: %v, want that %q is missing", name, e, need)
		}
		if err := op(t.Context(), reader); (CodeOf(err) == CodeDenied) != (need != CanRead) {
			t.Errorf("%s by a reader: %v", name, err)
		}
	}
	_, err := reader.Read(t.Context(), ReadRequest{Path: "/etc/os-release"})
	want(t, "a reader's own sandbox", err, CodeDenied)
	// Nobody has the network without asking for it, the local tenant neither.
	offline := w.session(t, SessionSpec{ID: "offline"})
	if !slices.Equal(offline.Capabilities(), DefaultCapabilities()) {
		t.Errorf("capabilities %v without asking", offline.Capabilities())
	}
	online := w.session(t, SessionSpec{ID: "online", Capabilities: offline.Tenant().Capabilities})
	for _, spec := range []SandboxSpec{{Network: sandbox.NetworkOutbound}, {Egress: []string{"pypi.org:443"}}} {
		_, err = offline.Create(t.Context(), CreateRequest{SandboxSpec: spec})
		want(t, "network", err, CodeDenied)
		info, err := online.Create(t.Context(), CreateRequest{SandboxSpec: spec})
		if err != nil || info.Network != sandbox.NetworkOutbound || len(spec.Egress) > 0 && !slices.Equal(info.Egress, spec.Egress) {
			t.Errorf("%+v, %v", info, err)
		}
		// Nor by a copy of one that has it.
		snap, err := online.Snapshot(t.Context(), SnapshotRequest{Sandbox: info.ID})
		if err != nil {
			t.Fatal(err)
		}
		_, err = offline.Restore(t.Context(), RestoreRequest{Snapshot: snap.ID})
		want(t, "restored network", err, CodeDenied)
		if err := online.RemoveSnapshot(t.Context(), snap.ID); err != nil {
			t.Error(err)
		}
	}
	// A session has no more than its tenant.
	tn, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: "small", Capabilities: []Capability{CanRead}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.OpenSession(t.Context(), tn.ID, SessionSpec{Capabilities: allCapabilities()})
	if err != nil || len(s.Capabilities()) != 1 {
		t.Errorf("%v, %v", s.Capabilities(), err)
	}
}

func TestIdempotency(t *testing.T) {
	noLeaks(t)
	w := open(t, nil)
	w.d.CreateTime = 20 * time.Millisecond
	s := w.session(t, SessionSpec{ID: "s"})
	var wg sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		wg.Go(func() {
			info, err := s.Create(t.Context(), CreateRequest{Key: "k"})
			if err != nil {
				t.Error(err)
			}
			ids[i] = info.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || id == "" {
			t.Fatalf("they got %v", ids)
		}
	}
	if w.d.Made() != 1 {
		t.Errorf("%d were made", w.d.Made())
	}
	_, err := s.Create(t.Context(), CreateRequest{Key: "k", SandboxSpec: SandboxSpec{MemoryMiB: 512}})
	want(t, "another request", err, CodeConflict)
	_, err = s.Fork(t.Context(), ForkRequest{Sandbox: ids[0], Key: "k"})
	want(t, "another operation", err, CodeConflict)
	_, err = s.Create(t.Context(), CreateRequest{Key: strings.Repeat("k", 257)})
	want(t, "a long key", err, CodeInvalid)

	// What failed may be tried again.
	w.d.OnCreate = func(context.Context, sandbox.Spec) error { return errors.New("not today") }
	_, err = s.Create(t.Context(), CreateRequest{Key: "again"})
	if CodeOf(err) != CodeInternal {
		t.Error(err)
	}
	w.d.OnCreate = nil
	if _, err = s.Create(t.Context(), CreateRequest{Key: "again"}); err != nil {
		t.Error(err)
	}
	first, err := s.Run(t.Context(), RunRequest{Sandbox: ids[0], Shell: "sleep 1000", Background: true, Key: "bg"})
	second, err2 := s.Run(t.Context(), RunRequest{Sandbox: ids[0], Shell: "sleep 1000", Background: true, Key: "bg"})
	if err != nil || err2 != nil || first.Process != second.Process {
		t.Errorf("%+v %v, %+v %v", first, err, second, err2)
	}
	fork, err := s.Fork(t.Context(), ForkRequest{Sandbox: ids[0], Count: 2, Key: "f"})
	again, err2 := s.Fork(t.Context(), ForkRequest{Sandbox: ids[0], Count: 2, Key: "f"})
	if err != nil || err2 != nil || fork.Children[1].Sandbox.ID != again.Children[1].Sandbox.ID {
		t.Errorf("%+v %v, %+v %v", fork, err, again, err2)
	}
	snap, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: ids[0], Key: "s"})
	if err != nil {
		t.Fatal(err)
	}
	w.shut(t)
	w.reopen(t)
	s = w.session(t, SessionSpec{ID: "s"})
	if same, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: ids[0], Key: "s"}); err != nil || same.ID != snap.ID {
		t.Errorf("after a restart: %+v, %v", same, err)
	}
	if info, err := s.Create(t.Context(), CreateRequest{Key: "k"}); err != nil || info.ID == ids[0] {
		t.Errorf("after a restart: %+v, %v", info, err)
	}
	if err := s.RemoveSnapshot(t.Context(), snap.ID); err != nil {
		t.Error(err)
	}
}

func TestKeysExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		s := w.session(t, SessionSpec{})
		first, err := s.Create(t.Context(), CreateRequest{Key: "k", SandboxSpec: SandboxSpec{Idle: IdlePolicy{Kill: -1}}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(keyLife + 2*time.Hour)
		second, err := s.Create(t.Context(), CreateRequest{Key: "k"})
		if err != nil || second.ID == first.ID {
			t.Errorf("%+v, %v", second, err)
		}
	})
}

func TestCancelledCall(t *testing.T) {
	noLeaks(t)
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	for name, op := range operations(box, "pr2222222222", "ou2222222222", "sn2222222222") {
		want(t, name, op(cancelled(), s), CodeCancelled)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.Run(ctx, RunRequest{Sandbox: box, Shell: "sleep 1000"})
	want(t, "run", err, CodeCancelled)
	s.mustRun(t, box, "true")
}

func TestSandboxThatDies(t *testing.T) {
	noLeaks(t)
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	process := s.mustStart(t, box, "sleep 1000")
	_, err := s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "die"})
	if e := wantError(t, "die", err, CodeGone); !strings.Contains(e.Cause, "ended by itself: it was told to") {
		t.Error(e)
	}
	_, err = s.Inspect(t.Context(), box)
	want(t, "later", err, CodeGone)
	p, err := s.Poll(t.Context(), PollRequest{Process: process, Wait: time.Minute})
	if err != nil || p.Running || p.Error == nil || p.Error.Code != CodeGone {
		t.Errorf("%+v, %v", p, err)
	}
	if n, _ := w.d.Left(); n != 0 {
		t.Errorf("%d are left", n)
	}
}

func TestClosedSession(t *testing.T) {
	noLeaks(t)
	w := open(t, nil)
	w.d.CreateTime = 30 * time.Millisecond
	s := w.session(t, SessionSpec{ID: "s"})
	box := s.mustCreate(t, SandboxSpec{})
	s.mustStart(t, box, "sleep 1000")
	var wg sync.WaitGroup
	for range 4 { // creations and runs in progress
		wg.Go(func() { _, _ = s.Create(t.Context(), CreateRequest{}) })
		wg.Go(func() { _, _ = s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "sleep 1000"}) })
	}
	time.Sleep(10 * time.Millisecond)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if n, _ := w.d.Left(); n != 0 {
		t.Errorf("%d are left", n)
	}
	_, err := s.Run(t.Context(), RunRequest{Shell: "true"})
	want(t, "run", err, CodeGone)
	if again := w.session(t, SessionSpec{ID: "s"}); again == s {
		t.Error("the closed session was opened again")
	}
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		s := w.session(t, SessionSpec{})
		box := s.mustCreate(t, SandboxSpec{})
		done := make(chan RunResult, 1)
		go func() { done <- s.mustRun(t, box, "sleep 5; echo whole") }()
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		want(t, "impatient", w.Drain(short), CodeCancelled)
		_, err := s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "true"})
		want(t, "while draining", err, CodeUnavailable)
		if err := w.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if res := <-done; res.Stdout != "whole\n" {
			t.Errorf("%+v", res)
		}
	})
}

func TestChoice(t *testing.T) {
	docker, kata := runtimetest.New("docker"), runtimetest.New("kata")
	kata.Unavailable = "no kata here"
	w := open(t, nil, docker, kata)
	s := w.session(t, SessionSpec{Capabilities: allCapabilities()})
	choice, err := w.Choose(t.Context(), "auto")
	if err != nil || choice.VM.Name() != "gvisor" && choice.VM.Name() != "docker" {
		t.Fatalf("%+v, %v", choice, err)
	}
	systems, err := w.Systems(t.Context())
	if err != nil || len(systems) != 7 {
		t.Fatalf("%+v, %v", systems, err)
	}
	for i, y := range systems {
		if y.Rank != i+1 || y.Available != (y.VM.Name() == "gvisor" || y.VM.Name() == "docker") || y.Available == (y.Reason != "") {
			t.Errorf("%+v", y)
		}
		if y.Available { // the first is the best
			if y.VM != choice.VM {
				t.Errorf("chosen is %s, not %s", choice.VM, y.VM)
			}
			break
		}
	}
	info, err := s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{System: "runc"}})
	if err != nil || info.System != "docker" || info.Why != "asked for" {
		t.Errorf("%+v, %v", info, err)
	}
	_, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{System: "kata"}})
	want(t, "kata", err, CodeUnavailable)
	_, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{System: "gviser"}})
	if e := wantError(t, "gviser", err, CodeInvalid); !strings.Contains(e.Remedy, "gvisor") {
		t.Error(e)
	}
	_, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{System: "firecracker"}})
	want(t, "no driver", err, CodeUnavailable)
	_, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Image: "missing"}})
	want(t, "no image", err, CodeNotFound)
	// What the best cannot do, the next may.
	best := map[string]*runtimetest.Driver{"gvisor": w.d, "docker": docker}[choice.VM.Name()]
	best.OnCreate = func(context.Context, sandbox.Spec) error {
		return &sandbox.Error{Op: "create", Err: sandbox.ErrUnsupported, Detail: "no network"}
	}
	info, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Network: sandbox.NetworkOutbound}})
	if err != nil || info.System == choice.VM.Name() || !strings.Contains(info.Why, choice.VM.Name()+": cannot do") {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestErrorsShowNoHostPath has a driver fail with paths of the host.
func TestErrorsShowNoHostPath(t *testing.T) {
	w := open(t, nil)
	w.d.OnCreate = func(context.Context, sandbox.Spec) error {
		return &sandbox.Error{Op: "create", System: "gvisor", Err: sandbox.ErrNoSpace, Detail: "write " + w.cfg.StateDir + "/x", Remedy: "look at " + w.cfg.StateDir + "/y"}
	}
	_, err := w.session(t, SessionSpec{}).Create(t.Context(), CreateRequest{})
	if e := wantError(t, "create", err, CodeNoSpace); strings.Contains(e.Error(), w.cfg.StateDir+"/") {
		t.Error(e)
	}
}

// TestKeyOfACancelledRun has the first answer repeated, and the program not.
func TestKeyOfACancelledRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		s := w.session(t, SessionSpec{Budget: Budget{OutputBytes: 1000}})
		box := s.mustCreate(t, SandboxSpec{})
		run := func(d time.Duration, line, key string) error {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			_, err := s.Run(ctx, RunRequest{Sandbox: box, Shell: line, Key: key})
			return err
		}
		const line = "write /tmp/f done; sleep 100; write /tmp/f twice"
		want(t, "first", run(10*time.Second, line, "k"), CodeCancelled)
		start := time.Now()
		e := wantError(t, "again", run(time.Hour, line, "k"), CodeCancelled)
		if time.Since(start) > 0 || !strings.Contains(e.Cause, "first call") || !strings.Contains(e.Remedy, "new key") || e.Sandbox != box {
			t.Errorf("%v, after %v", e, time.Since(start))
		}
		want(t, "another request", run(time.Hour, "true", "k"), CodeConflict)
		if read, err := s.Read(t.Context(), ReadRequest{Sandbox: box, Path: "/tmp/f"}); err != nil || read.Text != "done" {
			t.Errorf("%+v, %v", read, err)
		}
		// What had not begun may be tried again.
		want(t, "not begun", run(-1, "true", "n"), CodeCancelled)
		if err := run(time.Hour, "true", "n"); err != nil {
			t.Error(err)
		}
		want(t, "budget", run(time.Hour, "flood 5000", "b"), CodeBudget)
		if e := wantError(t, "budget again", run(time.Hour, "flood 5000", "b"), CodeBudget); e.Budget == nil || !strings.Contains(e.Cause, "first call") {
			t.Errorf("%v", e)
		}
		want(t, "not begun for the budget", run(time.Hour, "true", "m"), CodeBudget)
		if e := wantError(t, "not begun again", run(time.Hour, "true", "m"), CodeBudget); strings.Contains(e.Cause, "first call") {
			t.Errorf("%v", e)
		}
	})
}

// TestReasonsHaveNoPaths looks at why systems are passed over, which everybody may read.
func TestReasonsHaveNoPaths(t *testing.T) {
	gone := runtimetest.New("docker")
	gone.Unavailable = "stat /usr/local/secret/runsc: no such file; dial unix:///run/user/17/docker.sock; ('/home/joe/x') open /dev/kvm: permission denied"
	w := open(t, func(c *Config) { c.Drivers = c.Drivers[1:] }, gone)
	s := w.session(t, SessionSpec{})
	_, err := s.Create(t.Context(), CreateRequest{})
	texts := []string{wantError(t, "auto", err, CodeUnavailable).Error()}
	_, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{System: "docker"}})
	texts = append(texts, wantError(t, "by name", err, CodeUnavailable).Error())
	list, err := w.Systems(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, y := range list {
		texts = append(texts, y.Reason)
	}
	seen := 0
	for _, text := range texts {
		for _, path := range []string{"/usr", "secret", "/run/", "user/17", "/home", "joe"} {
			if strings.Contains(text, path) {
				t.Errorf("%q has %q", text, path)
			}
		}
		if strings.Contains(text, "runsc: no such file") && strings.Contains(text, "/dev/kvm") {
			seen++
		}
	}
	if seen != 3 {
		t.Errorf("the reason is not told: %q", texts)
	}
}

// TestRestoreBesideRemoval has snapshots removed while they are restored.
func TestRestoreBesideRemoval(t *testing.T) {
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	for range 3 {
		box := s.mustCreate(t, SandboxSpec{})
		snap, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box})
		if err := errors.Join(err, s.Kill(t.Context(), box)); err != nil {
			t.Fatal(err)
		}
		w.d.OnCreate = func(ctx context.Context, _ sandbox.Spec) error { return s.RemoveSnapshot(ctx, snap.ID) }
		restored, err := s.Restore(t.Context(), RestoreRequest{Snapshot: snap.ID})
		w.d.OnCreate = nil
		if err != nil || w.images.Held() != 1 {
			t.Fatalf("%v; %d images are held", err, w.images.Held())
		}
		if err := s.Kill(t.Context(), restored.ID); err != nil || w.images.Held() != 0 {
			t.Fatalf("%v; %d images are held", err, w.images.Held())
		}
	}
}
