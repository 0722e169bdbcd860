package docker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/oneshot"
	"github.com/aethervm/aether/sandbox"
)

func TestVersionIsNegotiated(t *testing.T) {
	f := newFakeEngine(t)
	f.create()
	if got := f.requests("/v1.41/containers/create"); len(got) != 1 {
		t.Errorf("requests of API 1.41: %q", got)
	}
	old := newFakeEngine(t)
	old.handle("HEAD /_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.24") })
	info := old.driver().Probe(t.Context())
	if info.Available || !strings.Contains(info.Reason, "1.24") {
		t.Errorf("with an engine that is too old: %+v", info)
	}
}

func TestProbeSaysWhatIsMissing(t *testing.T) {
	f := newFakeEngine(t)
	d := f.driver()
	if info := d.Probe(t.Context()); !info.Available || info.Version != "20.10.24" || info.Accelerator != "runc" {
		t.Errorf("got %+v", info)
	}
	d.opts.Runtime = "runsc"
	if info := d.Probe(t.Context()); !info.Available || info.Accelerator != "runsc" {
		t.Errorf("with another runtime: %+v", info)
	}
	d.opts.Runtime = "kata"
	if info := d.Probe(t.Context()); info.Available || !strings.Contains(info.Reason, `"kata"`) || !strings.Contains(info.Remedy, "runc, runsc") {
		t.Errorf("with a runtime that the engine lacks: %+v", info)
	}
	for _, host := range []string{"unix:///no/such/socket", "tcp://127.0.0.1:1", "nonsense"} {
		d.opts.Host = host
		if info := d.Probe(t.Context()); info.Available || !strings.Contains(info.Reason, host) || info.Remedy == "" {
			t.Errorf("%s: %+v", host, info)
		}
	}
}

func TestErrorsAreTyped(t *testing.T) {
	for _, c := range []struct {
		op      string
		status  int
		message string
		want    error
	}{
		{"POST /containers/create", 500, "mkdir /var/lib/docker/overlay2/x: no space left on device", sandbox.ErrNoSpace},
		{"POST /containers/create", 400, "Unknown runtime specified kata", sandbox.ErrUnsupported},
		{"POST /containers/create", 400, "invalid mount config for type \"bind\": bind source path does not exist: /x", sandbox.ErrUnavailable},
		{"POST /containers/create", 400, "Minimum memory limit allowed is 6MB", sandbox.ErrInvalid},
		{"POST /containers/create", 404, "page not found", fs.ErrNotExist},
		{"POST /containers/{id}/start", 500, "OCI runtime create failed: cannot allocate memory", sandbox.ErrNoSpace},
		{"POST /containers/{id}/start", 500, "something else", sandbox.ErrUnavailable},
		{"GET /images/{id}/json", 500, "something else", sandbox.ErrUnavailable},
	} {
		f := newFakeEngine(t)
		f.handle(c.op, refuse(c.status, c.message))
		_, err := f.driver().Create(t.Context(), f.spec())
		var typed *sandbox.Error
		if !errors.Is(err, c.want) || !errors.As(err, &typed) || typed.Detail != c.message {
			t.Errorf("%s answers %d %q: got %v, want %v", c.op, c.status, c.message, err, c.want)
		}
		if strings.HasPrefix(c.op, "POST") && len(f.requests("DELETE")) != 1 {
			t.Errorf("%s fails: the container is not removed", c.op)
		}
	}
}

func TestDeadSandboxSaysWhy(t *testing.T) {
	f := newFakeEngine(t)
	s := f.create()
	f.handle("POST /containers/{id}/exec", refuse(409, "Container c1 is not running"))
	f.handle("GET /containers/{id}/json", reply(200, map[string]any{"Id": "c1",
		"State": map[string]any{"Running": false, "OOMKilled": true, "ExitCode": 137}}))
	_, err := s.Exec(t.Context(), sandbox.Cmd{Args: []string{"true"}})
	var typed *sandbox.Error
	if !errors.Is(err, sandbox.ErrDead) || !errors.As(err, &typed) || !strings.Contains(typed.Detail, "memory limit") {
		t.Errorf("after an out-of-memory kill: %v", err)
	}
	f.handle("GET /containers/{id}/json", refuse(404, "No such container: c1"))
	if _, err := s.Exec(t.Context(), sandbox.Cmd{Args: []string{"true"}}); !errors.Is(err, sandbox.ErrDead) {
		t.Errorf("after a removal from outside: %v", err)
	}
}

func TestPausedSandboxRefusesExec(t *testing.T) {
	f := newFakeEngine(t)
	s := f.create()
	f.handle("POST /containers/{id}/exec", refuse(409, "Container c1 is paused, unpause the container before exec"))
	if _, err := s.Exec(t.Context(), sandbox.Cmd{Args: []string{"true"}}); !errors.Is(err, sandbox.ErrUnsupported) {
		t.Errorf("got %v, want ErrUnsupported", err)
	}
	if err := s.Pause(t.Context()); err == nil {
		t.Error("a refusal to pause a sandbox that runs is no error")
	}
	f.handle("GET /containers/{id}/json", reply(200, map[string]any{"Id": "c1", "State": map[string]any{"Running": true, "Paused": true}}))
	if err := s.Pause(t.Context()); err != nil {
		t.Errorf("pausing what is paused: %v", err)
	}
}

// TestCancelledCreateIsUndone ends the context while the engine is at work. The engine finishes all the
// same, and what it made must go.
func TestCancelledCreateIsUndone(t *testing.T) {
	for _, op := range []string{"POST /containers/create", "POST /containers/{id}/start"} {
		f := newFakeEngine(t)
		ctx, cancel := context.WithCancel(t.Context())
		f.mu.Lock()
		finish := f.mux[op]
		f.mu.Unlock()
		f.handle(op, func(w http.ResponseWriter, r *http.Request) {
			cancel()
			finish(w, r)
		})
		d := f.driver()
		_, err := d.Create(ctx, f.spec())
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled during %s: %v", op, err)
		}
		if got := f.requests("DELETE /v1.41/containers/aether-"); len(got) != 1 {
			t.Errorf("cancelled during %s: removed %q", op, got)
		}
		if marks, _ := filepath.Glob(filepath.Join(d.leases, "*", creationMark+"*")); len(marks) != 0 {
			t.Errorf("cancelled during %s: left %q", op, marks)
		}
	}
}

func TestExecHalfClosesStdin(t *testing.T) {
	f := newFakeEngine(t)
	s := f.create()
	f.handle("POST /exec/{id}/start", f.stream(func(stdin io.Reader, frame func(byte, string)) {
		all, err := io.ReadAll(stdin)
		if err != nil {
			t.Errorf("read stdin: %v", err)
		}
		frame(streamStdout, "got "+string(all))
		frame(streamStderr, "and this")
	}))
	// The engine learns of the exit a little after the end of the output.
	var mu sync.Mutex
	asked := 0
	f.handle("GET /exec/{id}/json", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		reply(200, map[string]any{"ID": "e1", "Running": asked < 3, "ExitCode": 3, "Pid": 7})(w, r)
	})
	var out, errOut bytes.Buffer
	code, err := s.run(t.Context(), oneshot.Program{Args: []string{"x"}, Stdin: strings.NewReader("input"), Stdout: &out, Stderr: &errOut})
	if code != 3 || err != nil || out.String() != "got input" || errOut.String() != "and this" {
		t.Errorf("got %d, %v, stdout %q, stderr %q", code, err, &out, &errOut)
	}
}

func TestExecEndsWithItsContext(t *testing.T) {
	f := newFakeEngine(t)
	s := f.create()
	attached := make(chan struct{})
	closed := make(chan struct{})
	f.handle("POST /exec/{id}/start", f.stream(func(stdin io.Reader, _ func(byte, string)) {
		close(attached)
		_, _ = io.Copy(io.Discard, stdin)
		close(closed)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-attached; cancel() }()
	// Standard input that never ends, as from a terminal.
	stdin, _ := io.Pipe()
	_, err := s.run(ctx, oneshot.Program{Args: []string{"x"}, Stdin: stdin, Stdout: io.Discard, Stderr: io.Discard})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the connection is still open")
	}
}

func TestCloseInterruptsExec(t *testing.T) {
	f := newFakeEngine(t)
	s := f.create()
	f.handle("POST /exec/{id}/start", f.stream(func(stdin io.Reader, _ func(byte, string)) {
		go func() { _ = s.Close() }()
		_, _ = io.Copy(io.Discard, stdin)
	}))
	stdin, _ := io.Pipe()
	if _, err := s.run(t.Context(), oneshot.Program{Args: []string{"x"}, Stdin: stdin, Stdout: io.Discard, Stderr: io.Discard}); !errors.Is(err, sandbox.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

func TestRefusedProgramIsAnError(t *testing.T) {
	f := newFakeEngine(t)
	s := f.create()
	const report = refusalPrefix + "exec failed: something"
	f.handle("POST /exec/{id}/start", f.stream(func(_ io.Reader, frame func(byte, string)) {
		frame(streamStdout, report[:10])
		frame(streamStdout, report[10:])
	}))
	run := func() (string, int, error) {
		var out bytes.Buffer
		code, err := s.run(t.Context(), oneshot.Program{Args: []string{"x"}, Stdout: &out, Stderr: io.Discard})
		return out.String(), code, err
	}
	// The same words from a program that has run are its output.
	if out, _, err := run(); err != nil || out != report {
		t.Errorf("program's own words: %q, %v", out, err)
	}
	f.handle("GET /exec/{id}/json", reply(200, map[string]any{"ID": "e1", "ExitCode": 126, "Pid": 0}))
	if out, _, err := run(); err == nil || out != "" || !strings.Contains(err.Error(), "something") {
		t.Errorf("refusal: %q, %v", out, err)
	}
}

func TestFailingStdinIsAnError(t *testing.T) {
	f := newFakeEngine(t)
	s := f.create()
	f.handle("POST /exec/{id}/start", f.stream(func(stdin io.Reader, _ func(byte, string)) { _, _ = io.ReadAll(stdin) }))
	broken := errors.New("broken")
	stdin := io.MultiReader(strings.NewReader("x"), readerFunc(func([]byte) (int, error) { return 0, broken }))
	if _, err := s.run(t.Context(), oneshot.Program{Args: []string{"x"}, Stdin: stdin, Stdout: io.Discard, Stderr: io.Discard}); !errors.Is(err, broken) {
		t.Errorf("got %v, want the reader's error", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestObserverSeesExchanges(t *testing.T) {
	f := newFakeEngine(t)
	d := f.driver()
	var mu sync.Mutex
	var calls []sandbox.Call
	ctx := sandbox.WithObserver(t.Context(), func(c sandbox.Call) {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, c)
	})
	f.handle("POST /exec/{id}/start", f.stream(func(stdin io.Reader, frame func(byte, string)) {
		_, _ = io.ReadAll(stdin)
		frame(streamStdout, strings.Repeat("bulk", 10_000))
	}))
	b, err := d.Create(ctx, f.spec())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Exec(ctx, sandbox.Cmd{Args: []string{"cat"}, Stdin: strings.NewReader(strings.Repeat("bulk", 10_000))}); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	total := 0
	byOp := map[string]sandbox.Call{}
	for _, c := range calls {
		byOp[c.Op] = c
		total += c.Sent + c.Received
		if c.Plane != "http" || c.Sent != len(c.Request) || c.Received != len(c.Reply) || c.Sent == 0 || c.Received == 0 {
			t.Errorf("call %+v", c)
		}
	}
	for op, part := range map[string]string{
		"POST /containers/create":     `"Image":"sha256:image"`,
		"POST /containers/{id}/start": "/containers/c1/start",
		"POST /containers/{id}/exec":  `"Cmd":["/.aether/agent","exec"`,
		"POST /exec/{id}/start":       `"Detach":false`,
		"GET /exec/{id}/json":         "/exec/e1/json",
	} {
		if !strings.Contains(byOp[op].Request, part) {
			t.Errorf("%s: request %q lacks %q", op, byOp[op].Request, part)
		}
	}
	if !strings.Contains(byOp["POST /containers/create"].Reply, `"Id":"c1"`) {
		t.Errorf("reply %q", byOp["POST /containers/create"].Reply)
	}
	if total > 20_000 {
		t.Errorf("%d bytes counted: bulk data is among them", total)
	}
}

// TestRuntimeThatHidesFiles checks that no snapshot is offered that would lack what was written.
func TestRuntimeThatHidesFiles(t *testing.T) {
	f := newFakeEngine(t)
	d := f.driver()
	d.opts.Runtime = "runsc"
	b, err := d.Create(t.Context(), f.spec())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := b.(sandbox.Snapshotter); ok {
		t.Error("a container under runsc offers snapshots")
	}
}

func TestOutboundNeedsABridge(t *testing.T) {
	f := newFakeEngine(t)
	spec := f.spec()
	spec.Network = sandbox.NetworkOutbound
	if _, err := f.driver().Create(t.Context(), spec); !errors.Is(err, sandbox.ErrUnsupported) {
		t.Errorf("got %v, want ErrUnsupported", err)
	}
	spec.Egress = []string{"pypi.org"}
	if _, err := f.driver().Create(t.Context(), spec); !errors.Is(err, sandbox.ErrUnsupported) || !strings.Contains(err.Error(), "pypi.org") {
		t.Errorf("got %v, want ErrUnsupported", err)
	}
	if got := f.requests("create"); len(got) != 0 {
		t.Errorf("created all the same: %q", got)
	}
}

// TestSweepTakesOrphansOnly gives the engine containers and snapshots of several owners.
func TestSweepTakesOrphansOnly(t *testing.T) {
	f := newFakeEngine(t)
	d := f.driver()
	deadDir := filepath.Join(d.leases, "dead")
	if err := os.MkdirAll(deadDir, 0o700); err != nil {
		t.Fatal(err)
	}
	elsewhere, missing := t.TempDir(), filepath.Join(t.TempDir(), "gone")
	labels := func(id, dir string, more ...string) map[string]string {
		m := map[string]string{labelLease: id, labelLeaseDir: dir}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	f.handle("GET /containers/json", reply(200, []any{
		map[string]any{"Id": "of-dead-owner", "Labels": labels("dead", deadDir)},
		map[string]any{"Id": "of-lost-lease", "Labels": labels("lost", missing)},
		map[string]any{"Id": "of-other-root", "Labels": labels("other", elsewhere)},
		map[string]any{"Id": "without-directory", "Labels": map[string]string{labelLease: "x"}},
	}))
	tags := []string{"aether/snapshot:x"}
	f.handle("GET /images/json", reply(200, []any{
		map[string]any{"Id": "snap-dead-owner", "RepoTags": tags, "Labels": labels("dead", deadDir, labelSnapshotDir, elsewhere)},
		map[string]any{"Id": "snap-kept", "RepoTags": tags, "Labels": labels("closed", missing, labelSnapshotDir, elsewhere)},
		map[string]any{"Id": "snap-given-up", "RepoTags": tags, "Labels": labels("closed", missing, labelSnapshotDir, missing)},
		map[string]any{"Id": "snap-untagged", "Labels": labels("other", elsewhere, labelSnapshotDir, elsewhere)},
	}))
	n, err := d.Sweep(t.Context())
	if err != nil || n != 5 {
		t.Errorf("swept %d, %v; want 5", n, err)
	}
	removed := strings.Join(f.requests("DELETE"), "\n")
	for name, want := range map[string]bool{
		"of-dead-owner": true, "of-lost-lease": true, "of-other-root": false, "without-directory": false,
		"snap-dead-owner": true, "snap-kept": false, "snap-given-up": true, "snap-untagged": true,
	} {
		if got := strings.Contains(removed, name); got != want {
			t.Errorf("%s: removed %v, want %v", name, got, want)
		}
	}
	if _, err := os.Stat(deadDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dead lease is still there: %v", err)
	}
}

// TestSweepWaitsForCreationsUnderWay has an engine that is still creating a container for a dead owner.
func TestSweepWaitsForCreationsUnderWay(t *testing.T) {
	f := newFakeEngine(t)
	d := f.driver()
	deadDir := filepath.Join(d.leases, "dead")
	if err := os.MkdirAll(deadDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := markCreation(deadDir, "late", "sha256:image"); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	asked := 0
	f.handle("DELETE /containers/{id}", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if asked++; asked < 3 {
			refuse(404, "No such container")(w, r)
			return
		}
		reply(204, nil)(w, r)
	})
	f.handle("POST /containers/create", refuse(409, `Conflict. The container name "/aether-late" is already in use`))
	if n, err := d.Sweep(t.Context()); n != 1 || err != nil {
		t.Errorf("swept %d, %v; want 1", n, err)
	}
}

func TestSweepWithoutEngine(t *testing.T) {
	f := newFakeEngine(t)
	d := f.driver()
	d.opts.Host = "unix:///no/such/socket"
	if n, err := d.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("with nothing to sweep: %d, %v", n, err)
	}
	deadDir := filepath.Join(d.leases, "dead")
	if err := os.MkdirAll(deadDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Sweep(t.Context()); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Errorf("with a dead lease: %v", err)
	}
	if _, err := os.Stat(deadDir); err != nil {
		t.Errorf("the lease was released unswept: %v", err)
	}
}

func TestForeignSnapshotIsRefused(t *testing.T) {
	f := newFakeEngine(t)
	d := f.driver()
	good := sandbox.Snapshot{System: system, Kind: sandbox.SnapshotFiles, Ref: "aether/snapshot:abcdefghijklmnop", Spec: f.spec()}
	for name, change := range map[string]func(*sandbox.Snapshot){
		"other system":       func(s *sandbox.Snapshot) { s.System = "gvisor" },
		"full":               func(s *sandbox.Snapshot) { s.Kind = sandbox.SnapshotFull },
		"image of another":   func(s *sandbox.Snapshot) { s.Ref = "debian:latest" },
		"way out of the API": func(s *sandbox.Snapshot) { s.Ref = "aether/snapshot:abcdefghijklmnop/../../x" },
	} {
		snap := good
		change(&snap)
		if _, err := d.Restore(t.Context(), snap); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("restore, %s: %v, want ErrInvalid", name, err)
		}
		if err := d.RemoveSnapshot(t.Context(), snap); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("remove, %s: %v, want ErrInvalid", name, err)
		}
	}
	f.handle("GET /images/{id}/json", refuse(404, "No such image: x"))
	if _, err := d.Restore(t.Context(), good); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("restore what is gone: %v, want fs.ErrNotExist", err)
	}
}

func TestOperationNames(t *testing.T) {
	for _, c := range [][3]string{
		{"POST", "/v1.41/containers/create", "POST /containers/create"},
		{"POST", "/v1.41/containers/abc/start", "POST /containers/{id}/start"},
		{"DELETE", "/v1.41/containers/abc", "DELETE /containers/{id}"},
		{"GET", "/v1.41/containers/json", "GET /containers/json"},
		{"GET", "/v1.41/containers/abc/json", "GET /containers/{id}/json"},
		{"GET", "/v1.41/images/aether/image:0123/json", "GET /images/{id}/json"},
		{"DELETE", "/v1.41/images/aether/snapshot:0123", "DELETE /images/{id}"},
		{"GET", "/v1.41/images/json", "GET /images/json"},
		{"POST", "/v1.41/images/create", "POST /images/create"},
		{"GET", "/v1.41/networks/bridge", "GET /networks/{id}"},
		{"POST", "/v1.41/exec/abc/start", "POST /exec/{id}/start"},
		{"POST", "/v1.41/commit", "POST /commit"},
		{"HEAD", "/_ping", "HEAD /_ping"},
		{"GET", "/v1.41/info", "GET /info"},
	} {
		if got := operation(c[0], c[1]); got != c[2] {
			t.Errorf("%s %s: %q, want %q", c[0], c[1], got, c[2])
		}
	}
}
