package bench

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/bench/agentjobs"
	"github.com/aethervm/aether/internal/probe"
	"github.com/aethervm/aether/internal/probe/finding"
	"github.com/aethervm/aether/sandbox"
)

// fakeDriver is a system in memory. Its clock is the clock of the process, which tests make a fake
// one, so that what takes a second here takes none there.
type fakeDriver struct {
	name       string
	createTime time.Duration
	// create, if set, is called by Create with the number of sandboxes made before.
	create func(ctx context.Context, made int) error
	// exec, if set, is called by Exec and may answer instead.
	exec func(ctx context.Context, cmd sandbox.Cmd) (err error)
	// Faults of a system that forks badly.
	clonesRNG  bool
	clonesPRNG bool
	clockLag   time.Duration
	ignoresEnd bool // a paused program goes on
	kind       sandbox.SnapshotKind

	mu        sync.Mutex
	made      int
	open      map[*fakeSandbox]bool
	snapshots map[string]*fakeState
	swept     int
	streams   uint64
}

func newFake(name string) *fakeDriver {
	return &fakeDriver{
		name: name, createTime: 100 * time.Millisecond, kind: sandbox.SnapshotFull,
		open: map[*fakeSandbox]bool{}, snapshots: map[string]*fakeState{},
	}
}

func (d *fakeDriver) System() string { return d.name }

func (d *fakeDriver) Probe(context.Context) sandbox.Info {
	return sandbox.Info{System: d.name, Available: true, Version: d.name + " 1.0", Accelerator: "fake"}
}

func (d *fakeDriver) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	if _, err := spec.WithDefaults(); err != nil {
		return nil, err
	}
	sandbox.Observe(ctx, sandbox.Call{Plane: "fake", Op: "create", Sent: 10, Received: 20, Request: "hello world", Reply: "ok"})
	d.mu.Lock()
	made := d.made
	d.made++
	d.mu.Unlock()
	if d.create != nil {
		if err := d.create(ctx, made); err != nil {
			return nil, err
		}
	}
	if err := sleep(ctx, d.createTime); err != nil {
		return nil, err
	}
	return d.start(&fakeState{files: map[string]string{}}), nil
}

func (d *fakeDriver) start(state *fakeState) *fakeSandbox {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.streams++
	sb := &fakeSandbox{d: d, state: state, resumed: time.Now(), pid: int(1000 + d.streams)}
	if state.rng == nil {
		state.rng, state.prng = rand.New(rand.NewPCG(1, d.streams)), rand.New(rand.NewPCG(2, d.streams))
	}
	d.open[sb] = true
	return sb
}

func (d *fakeDriver) Sweep(context.Context) (int, error) { d.swept++; return 0, nil }

func (d *fakeDriver) Close() error { return nil }

func (d *fakeDriver) Daemons(context.Context) ([]sandbox.HostProcess, error) {
	return []sandbox.HostProcess{{PID: 1, Role: sandbox.RoleDaemon}}, nil
}

func (d *fakeDriver) Restore(ctx context.Context, snap sandbox.Snapshot) (sandbox.Sandbox, error) {
	if err := sleep(ctx, d.createTime/2); err != nil {
		return nil, err
	}
	d.mu.Lock()
	saved := d.snapshots[snap.Ref]
	d.mu.Unlock()
	if saved == nil {
		return nil, &sandbox.Error{Op: "restore", System: d.name, Err: sandbox.ErrInvalid, Detail: "no such snapshot"}
	}
	return d.start(saved.fork(d)), nil
}

func (d *fakeDriver) RemoveSnapshot(_ context.Context, snap sandbox.Snapshot) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.snapshots, snap.Ref)
	return nil
}

func (d *fakeDriver) left() (sandboxes, snapshots int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.open), len(d.snapshots)
}

// fakeState is what a snapshot holds.
type fakeState struct {
	files     map[string]string
	token     string // of the workload; empty if it does not run
	ran       time.Duration
	rng, prng *rand.Rand
}

func (s *fakeState) fork(d *fakeDriver) *fakeState {
	f := &fakeState{files: map[string]string{}, ran: s.ran}
	for k, v := range s.files {
		f.files[k] = v
	}
	if d.kind == sandbox.SnapshotFull {
		f.token = s.token
	}
	d.mu.Lock()
	d.streams++
	seed := d.streams
	d.mu.Unlock()
	f.rng, f.prng = rand.New(rand.NewPCG(1, 1000+seed)), rand.New(rand.NewPCG(2, 1000+seed))
	if d.clonesRNG {
		f.rng = rand.New(rand.NewPCG(7, 7))
		// Siblings are seldom at the same place of the stream.
		for range seed % 9 {
			f.rng.Uint64()
			f.rng.Uint64()
		}
	}
	if d.clonesPRNG {
		f.prng = rand.New(rand.NewPCG(8, 8))
	}
	return f
}

// fakeSandbox understands the commands that bench gives.
type fakeSandbox struct {
	d   *fakeDriver
	pid int

	mu      sync.Mutex
	closed  bool
	paused  bool
	resumed time.Time
	state   *fakeState
}

func (sb *fakeSandbox) ID() string { return fmt.Sprintf("%s-%d", sb.d.name, sb.pid) }

func (sb *fakeSandbox) check(op string) error {
	if sb.closed {
		return &sandbox.Error{Op: op, System: sb.d.name, Sandbox: sb.ID(), Err: sandbox.ErrClosed, Detail: "it was closed", Remedy: "create another"}
	}
	return nil
}

// ran is how long the workload has run.
func (sb *fakeSandbox) ran() time.Duration {
	if sb.paused && !sb.d.ignoresEnd {
		return sb.state.ran
	}
	return sb.state.ran + time.Since(sb.resumed)
}

func (sb *fakeSandbox) Exec(ctx context.Context, cmd sandbox.Cmd) (sandbox.Exit, error) {
	if err := cmd.Check(); err != nil {
		return sandbox.Exit{}, err
	}
	sandbox.Observe(ctx, sandbox.Call{Plane: "fake", Op: "exec", Sent: 1, Received: 2, Request: "hello world"})
	if err := sleep(ctx, 10*time.Millisecond); err != nil {
		return sandbox.Exit{}, err
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if err := sb.check("exec"); err != nil {
		return sandbox.Exit{}, err
	}
	if sb.d.exec != nil {
		if err := sb.d.exec(ctx, cmd); err != nil {
			return sandbox.Exit{}, err
		}
	}
	if cmd.Args[0] == "cat" {
		_, err := io.Copy(cmd.Stdout, cmd.Stdin)
		return sandbox.Exit{}, err
	}
	out, err := sb.answer(cmd)
	if err == nil && cmd.Stdout != nil {
		_, err = io.WriteString(cmd.Stdout, out)
	}
	return sandbox.Exit{}, err
}

func (sb *fakeSandbox) answer(cmd sandbox.Cmd) (string, error) {
	line := strings.Join(cmd.Args, " ")
	switch {
	case line == "true", line == "python3 -c pass", strings.HasPrefix(line, "mkdir "):
		return "", nil
	case line == "python3 -c print(6*7)":
		return "42\n", nil
	case line == "python3 -":
		b, err := json.Marshal(draw(sb.state.rng))
		return string(b), err
	case strings.HasPrefix(line, "sh -c setsid python3 "):
		sb.state.token = hex.EncodeToString([]byte(sb.ID()))
		return "", nil
	case line == "date +%s.%N":
		now := time.Now().Add(-sb.d.clockLag)
		return fmt.Sprintf("%d.%09d\n", now.Unix(), now.Nanosecond()), nil
	case cmd.Args[0] == "printf":
		return cmd.Args[2] + "|" + cmd.Args[3], nil
	case cmd.Args[0] == "no-such-program":
		return "", &sandbox.Error{Op: "exec", System: sb.d.name, Err: sandbox.ErrCannotRun, Detail: "not found"} // no remedy
	}
	return "", fmt.Errorf("fake: %q is not understood", line)
}

func draw(r *rand.Rand) draws {
	var d draws
	for range 64 {
		d.GetRandom = append(d.GetRandom, fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64()))
	}
	for range 8 {
		d.UUID4 = append(d.UUID4, fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64()))
	}
	return d
}

func (sb *fakeSandbox) ReadFile(_ context.Context, name string, w io.Writer) error {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if err := errors.Join(sb.check("read"), sandbox.CheckPath(name)); err != nil {
		return err
	}
	content, ok := sb.state.files[name]
	if !ok {
		return &sandbox.Error{Op: "read", System: sb.d.name, Err: fs.ErrNotExist, Detail: name, Remedy: "write it first"}
	}
	_, err := io.WriteString(w, content)
	return err
}

func (sb *fakeSandbox) WriteFile(_ context.Context, name string, r io.Reader, _ fs.FileMode) error {
	content, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if err := sb.check("write"); err != nil {
		return err
	}
	sb.state.files[name] = string(content)
	if path.Base(name) == "ask" && sb.state.token != "" {
		a := answer{
			Nonce: string(content), Token: sb.state.token, Tick: int64(sb.ran() / (10 * time.Millisecond)), Intact: true,
			draws: draw(sb.state.rng), PRNG: draw(sb.state.prng).UUID4,
		}
		b, err := json.Marshal(a)
		if err != nil {
			return err
		}
		sb.state.files[path.Dir(name)+"/answer"] = string(b)
	}
	return nil
}

func (sb *fakeSandbox) ReadDir(context.Context, string) ([]sandbox.FileInfo, error) {
	return nil, errors.New("fake: no directories")
}

func (sb *fakeSandbox) Stat(_ context.Context, name string) (sandbox.FileInfo, error) {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if err := sb.check("stat"); err != nil {
		return sandbox.FileInfo{}, err
	}
	if path.Base(name) == "ticks" && sb.state.token != "" {
		return sandbox.FileInfo{Name: "ticks", Size: tickSize * int64(sb.ran()/(10*time.Millisecond))}, nil
	}
	content, ok := sb.state.files[name]
	if !ok {
		return sandbox.FileInfo{}, fs.ErrNotExist
	}
	return sandbox.FileInfo{Name: path.Base(name), Size: int64(len(content)), Mode: 0o640}, nil
}

func (sb *fakeSandbox) Remove(_ context.Context, name string) error {
	if name == "/" {
		return fs.ErrPermission // not typed
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	delete(sb.state.files, name)
	return nil
}

func (sb *fakeSandbox) Close() error {
	sb.mu.Lock()
	sb.closed = true
	sb.mu.Unlock()
	sb.d.mu.Lock()
	delete(sb.d.open, sb)
	sb.d.mu.Unlock()
	return nil
}

func (sb *fakeSandbox) Pause(context.Context) error {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if !sb.d.ignoresEnd {
		sb.state.ran = sb.ran()
	}
	sb.paused = true
	return nil
}

func (sb *fakeSandbox) Resume(context.Context) error {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if sb.paused && !sb.d.ignoresEnd {
		sb.resumed = time.Now()
	}
	sb.paused = false
	return nil
}

func (sb *fakeSandbox) Snapshot(ctx context.Context, dir string) (sandbox.Snapshot, error) {
	if err := sleep(ctx, 30*time.Millisecond); err != nil {
		return sandbox.Snapshot{}, err
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if err := sb.check("snapshot"); err != nil {
		return sandbox.Snapshot{}, err
	}
	saved := *sb.state
	saved.ran = sb.ran()
	saved.files = map[string]string{}
	for k, v := range sb.state.files {
		saved.files[k] = v
	}
	sb.d.mu.Lock()
	sb.d.snapshots[dir] = &saved
	sb.d.mu.Unlock()
	return sandbox.Snapshot{System: sb.d.name, Kind: sb.d.kind, Ref: dir, Bytes: 8 * mib}, nil
}

func (sb *fakeSandbox) HostProcesses(context.Context) ([]sandbox.HostProcess, error) {
	return []sandbox.HostProcess{{PID: sb.pid, Role: sandbox.RoleGuest, GuestRAM: 256 * mib}, {PID: 1, Role: sandbox.RoleDaemon}}, nil
}

func (sb *fakeSandbox) Stats(context.Context) (sandbox.Stats, error) {
	return sandbox.Stats{MemoryBytes: mib, Processes: 2}, nil
}

// Without abilities: the interfaces hide what the fakes can do besides.
type (
	plainDriver  struct{ sandbox.Driver }
	plainSandbox struct{ sandbox.Sandbox }
)

func (d plainDriver) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	sb, err := d.Driver.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	return plainSandbox{sb}, nil
}

// fakeMemory is that of a host on which each sandbox takes 20 MiB in its process, 2 MiB in the
// kernel and 3 MiB in a memfd that nobody maps; a daemon takes 50 MiB.
type fakeMemory struct{ d *fakeDriver }

func (m fakeMemory) process(p sandbox.HostProcess) (processMemory, error) {
	if p.PID == 1 {
		return processMemory{pss: 50 * mib}, nil
	}
	return processMemory{pss: 20 * mib, shmem: 5 * mib, guest: 16 * mib, known: p.GuestRAM > 0}, nil
}

func (m fakeMemory) meminfo() (map[string]int64, error) {
	n, _ := m.d.left()
	return map[string]int64{
		"Slab": 100*mib + int64(n)*mib, "PageTables": 30*mib + int64(n)*mib, "KernelStack": int64(n) * 64 * mib,
		"Shmem": 500*mib + int64(n)*8*mib, "MemAvailable": 10_000*mib - int64(n)*26*mib,
	}, nil
}

type fakeProber struct{}

func (fakeProber) look(ctx context.Context, sb sandbox.Sandbox, _ string) (probe.Report, error) {
	_, err := run(ctx, sb, "true")
	return probe.Report{
		Inside:  []finding.Finding{{Name: "kernel", Verdict: finding.Better}},
		Metrics: probe.Metrics{"isolation.inside_ratio": 0.75, "isolation.separate_kernel_ratio": 1},
	}, err
}

func (fakeProber) bombs(ctx context.Context, create func(context.Context) (sandbox.Sandbox, error), _ string) (probe.BombReport, error) {
	_, err := create(ctx)
	return probe.BombReport{
		Bombs:   []finding.Finding{{Name: "bombs.memory", Verdict: finding.Better}},
		Metrics: probe.Metrics{"isolation.bombs_ratio": 1},
	}, err
}

type fakeSurfer struct{}

func (fakeSurfer) run(_ context.Context, cfg agentjobs.Config) ([]agentjobs.Result, error) {
	for _, r := range []agentjobs.Result{
		{Name: "first", Done: true, Duration: time.Second, Calls: []agentjobs.Exchange{{Request: "hello", Reply: " world"}}},
		{Name: "second", NoAbility: true, Error: "it cannot"},
	} {
		cfg.Done(r)
	}
	return nil, nil
}

// fakeConfig measures the drivers on a host of the test's own.
func fakeConfig(t testing.TB, drivers ...sandbox.Driver) Config {
	dir := t.TempDir()
	cfg := Config{
		Drivers: drivers, Runs: 2, Out: dir + "/out", Scratch: dir + "/scratch", AetherVersion: "test",
		Spec: sandbox.Spec{Image: sandbox.Image{Digest: "sha256:0", Rootfs: "/nowhere"}},
		Host: Host{CPU: "fake CPU", CPUs: 2, Kernel: "6.1", BootID: "boot-1", Arch: "amd64"},
	}
	for _, d := range drivers {
		if f, ok := d.(*fakeDriver); ok && cfg.memory == nil {
			cfg.memory = fakeMemory{f}
		}
	}
	if cfg.memory == nil {
		cfg.memory = fakeMemory{newFake("none")}
	}
	cfg.prober, cfg.surfer = fakeProber{}, fakeSurfer{}
	return cfg
}

// recorded collects events.
type recorded []Event

func (r *recorded) event(e Event) { *r = append(*r, e) }

func (r recorded) of(kind EventKind) []Event {
	return slices.DeleteFunc(slices.Clone(r), func(e Event) bool { return e.Kind != kind })
}

// nothingLeft checks that neither sandboxes nor snapshots nor scratch directories are left.
func nothingLeft(t testing.TB, cfg Config) {
	t.Helper()
	for _, d := range cfg.Drivers {
		f, ok := d.(*fakeDriver)
		if !ok {
			continue
		}
		if sandboxes, snapshots := f.left(); sandboxes != 0 || snapshots != 0 {
			t.Errorf("%s: %d sandboxes and %d snapshots are left", f.name, sandboxes, snapshots)
		}
	}
	if names := list(t, cfg.Scratch); len(names) != 0 {
		t.Errorf("left in the scratch directory: %v", names)
	}
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
