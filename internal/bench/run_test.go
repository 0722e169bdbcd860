package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aethervm/aether/sandbox"
)

func list(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// mustRun runs a bench that is expected to succeed.
func mustRun(t testing.TB, cfg Config) *Results {
	t.Helper()
	r, err := Run(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAllAxes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFake("docker")
		cfg := fakeConfig(t, d)
		r := mustRun(t, cfg)
		nothingLeft(t, cfg)
		if !r.Complete || d.swept != 1 {
			t.Errorf("complete %v, swept %d times", r.Complete, d.swept)
		}
		got := r.Systems["docker"].Metrics
		want := map[string]float64{
			"start.cold.p50_ms": 110, "start.cold.p95_ms": 110, "start.cold.p99_ms": 110,
			"start.python.p50_ms": 110, "start.exec.p50_ms": 10, "start.exec.p99_ms": 10,
			"start.burst8.p50_ms": 110, "start.burst8.p99_ms": 110, "start.close.p50_ms": 0,
			// 20 in the process, 2 in the kernel, 3 unmapped.
			"density.idle_mib": 25, "density.fixed_mib": 50, "density.sandboxes_count": 8,
			"density.vmm_mib": 9, "start.stream50.p50_ms": 10,
			"snapshot.pause_ratio": 1, "snapshot.memory_survives_ratio": 1, "snapshot.files_survive_ratio": 1,
			"snapshot.save.p50_ms": 30, "snapshot.restore.p50_ms": 60, "snapshot.disk_mib": 8,
			"snapshot.fork10.total_ms": 60, "snapshot.fork.unique_ratio": 1, "snapshot.fork.clock_ratio": 1,
			"snapshot.fork.prng_ratio": 1,
			"control.agent_jobs_count": 1, "control.agent_jobs_ratio": 0.5,
			"isolation.inside_ratio": 0.75, "isolation.bombs_ratio": 1, "isolation.separate_kernel_ratio": 1,
		}
		for name, value := range want {
			if v, ok := got[name]; !ok || v < value-1e-6 || v > value+1e-6 {
				t.Errorf("%s = %v, %v; want %v", name, v, ok, value)
			}
		}
		for _, name := range []string{"control.jobs_count", "control.jobs_ratio", "control.errors_ratio"} {
			if _, ok := got[name]; !ok {
				t.Errorf("%s is missing", name)
			}
		}
		// The fake cannot do all core jobs, so it has no cost.
		if v, ok := got["control.tokens_count"]; ok {
			t.Errorf("control.tokens_count = %v of a system that fails at core jobs", v)
		}
		stats := r.Systems["docker"].Stats
		if _, ok := stats["density.total"]; ok || stats["start.exec"].N != 20 || stats["density.idle"].N != 2 {
			t.Errorf("stats %+v", stats)
		}
		if points := r.Values("docker", "density.total"); len(points) != 10 || points[1]-points[0] != 25 {
			t.Errorf("points of the density curve: %v", points)
		}
		if len(r.Systems["docker"].Axes) != 5 {
			t.Errorf("axes %v; want all five", r.Systems["docker"].Axes)
		}
		p := r.Profiles()
		if len(p) != 1 || p[0].VM.Name() != "docker" || p[0].Axes.StartLatency != r.Systems["docker"].Axes[AxisStart] {
			t.Errorf("profiles %+v", p)
		}
		var probes ProbeReport
		if err := json.Unmarshal(r.Probes["docker"], &probes); err != nil || len(probes.Inside) != 1 || len(probes.Bombs) != 1 {
			t.Errorf("probes %+v, %v; want those of both steps", probes, err)
		}
		for _, name := range []string{planName, summaryName, samplesName, textName, "probes/docker.json", "jobs/docker.json", "agent/docker.json"} {
			if _, err := os.Stat(filepath.Join(cfg.Out, name)); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestOrderIsInterleavedAndRotated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := fakeConfig(t, newFake("a"), newFake("b"), newFake("c"))
		cfg.Axes, cfg.Runs = []Axis{AxisDensity, AxisStart}, 4
		var events recorded
		cfg.Progress = events.event
		r := mustRun(t, cfg)
		var got []string
		for _, e := range events.of(EventStep) {
			got = append(got, fmt.Sprintf("%d %s %s", e.Round, e.Step, e.System))
		}
		var want []string
		for round, order := range []string{"abc", "bca", "cab", "abc"} {
			for _, step := range []string{"start.cold", "start.python", "start.exec", "start.burst8", "start.stream50", "density.sweep"} {
				if step == "density.sweep" && round == 3 {
					continue // three rounds of it are enough
				}
				for _, system := range order {
					want = append(want, fmt.Sprintf("%d %s %c", round, step, system))
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("order:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if n := len(events.of(EventWarmup)); n != 3 {
			t.Errorf("%d warm-ups; want one a system", n)
		}
		if n := len(r.Values("a", "start.cold")); n != 4 {
			t.Errorf("%d cold starts; warm-ups must not be among them", n)
		}
	})
}

func TestFailureOfOneSystemStopsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, good := newFake("bad"), newFake("good")
		calls := 0
		bad.exec = func(_ context.Context, cmd sandbox.Cmd) error {
			if slices.Equal(cmd.Args, []string{"python3", "-c", "print(6*7)"}) {
				if calls++; calls > 1 { // the warm-up is let through
					return errors.New("no python today")
				}
			}
			return nil
		}
		cfg := fakeConfig(t, bad, good)
		cfg.Axes, cfg.Runs = []Axis{AxisStart}, 5
		r := mustRun(t, cfg)
		nothingLeft(t, cfg)
		if n := len(r.Values("good", "start.python")); n != 5 {
			t.Errorf("the good system has %d samples of 5", n)
		}
		if n := len(r.Values("bad", "start.python")); n != 0 || len(r.Values("bad", "start.cold")) != 5 {
			t.Errorf("the bad system has %d samples of the step that fails", n)
		}
		if _, ok := r.Systems["bad"].Metrics["start.python.p50_ms"]; ok {
			t.Error("a metric without a sample")
		}
		notes := strings.Join(r.Systems["bad"].Notes, "\n")
		for _, want := range []string{"start.python: 3 runs failed", "no python today", "failed 3 times in a row"} {
			if !strings.Contains(notes, want) {
				t.Errorf("notes %q lack %q", notes, want)
			}
		}
		if calls != 1+stepFailures {
			t.Errorf("tried %d times; want %d and then no more", calls-1, stepFailures)
		}
		if !r.Complete {
			t.Error("not complete")
		}
	})
}

func TestSystemWhoseFirstSandboxFailsIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, good := newFake("bad"), newFake("good")
		bad.create = func(context.Context, int) error {
			return &sandbox.Error{Op: "create", System: "bad", Err: sandbox.ErrNoSpace, Detail: "disk full"}
		}
		cfg := fakeConfig(t, bad, good)
		cfg.Axes = []Axis{AxisStart}
		r := mustRun(t, cfg)
		if s := r.Systems["bad"]; !strings.Contains(s.Reason, "disk full") || len(s.Metrics) != 0 || len(s.Axes) != 0 {
			t.Errorf("bad system: %+v", s)
		}
		if !r.Complete || len(r.Profiles()) != 0 || len(r.Values("good", "start.cold")) != 2 {
			t.Errorf("complete %v", r.Complete)
		}
	})
}

func TestDriverThatHangsIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		hangs, good := newFake("hangs"), newFake("good")
		hangs.create = func(_ context.Context, made int) error {
			if made == 3 { // the third step
				<-release
			}
			return nil
		}
		cfg := fakeConfig(t, hangs, good)
		cfg.Axes = []Axis{AxisStart}
		r := mustRun(t, cfg)
		if s := r.Systems["hangs"]; !strings.Contains(s.Reason, "does not come back") {
			t.Errorf("reason %q", s.Reason)
		}
		if n := len(r.Values("good", "start.burst8")); n != 16 {
			t.Errorf("the good system has %d samples", n)
		}
		// When the call comes back at last, the sandbox that it made is closed.
		close(release)
		synctest.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		nothingLeft(t, cfg)
	})
}

func TestSlowStepEndsAtItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFake("slow")
		d.create = func(ctx context.Context, made int) error {
			if made == 1 {
				return sleep(ctx, time.Hour)
			}
			return nil
		}
		cfg := fakeConfig(t, d)
		cfg.Axes = []Axis{AxisStart}
		start := time.Now()
		r := mustRun(t, cfg)
		if took := time.Since(start); took > 10*time.Minute {
			t.Errorf("took %v", took)
		}
		if notes := strings.Join(r.Systems["slow"].Notes, "\n"); !strings.Contains(notes, "took more than 2m0s") {
			t.Errorf("notes %q", notes)
		}
		if n := len(r.Values("slow", "start.cold")); n != 1 {
			t.Errorf("%d cold starts; want that of the second round", n)
		}
	})
}

func TestCancelClosesAndResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFake("a"), newFake("b")
		cfg := fakeConfig(t, a, b)
		cause := errors.New("interrupted by the user")
		for after := 0; ; after += 7 { // cancelled after ever more samples, until it gets through
			ctx, cancel := context.WithCancelCause(context.Background())
			n := 0
			cfg.Progress = func(e Event) {
				if e.Kind == EventSample {
					if n++; n > after {
						cancel(cause)
					}
				}
			}
			r, err := Run(ctx, cfg)
			cancel(nil)
			synctest.Wait()
			nothingLeft(t, cfg)
			if err == nil {
				if !r.Complete {
					t.Error("not complete")
				}
				break
			}
			if !errors.Is(err, cause) || !strings.Contains(err.Error(), cfg.Out) || !strings.Contains(err.Error(), "run the same command again") {
				t.Fatal(err)
			}
			if r == nil || r.Complete {
				t.Fatalf("results %+v", r)
			}
			if after > 500 {
				t.Fatal("no progress")
			}
		}
		checkWhole(t, cfg.Out)
	})
}

// checkWhole checks that every step was ended exactly once, and that what counts is what an
// undisturbed run has.
func checkWhole(t testing.TB, out string) {
	t.Helper()
	r, err := Load(out)
	if err != nil {
		t.Fatal(err)
	}
	ended := map[slot]int{}
	counted := map[slot]int{}
	for _, s := range r.Samples {
		switch {
		case s.Kind == KindDone:
			ended[s.slot()]++
		case s.Kind == KindValue && !s.Interrupted:
			counted[s.slot()]++
		case s.Kind == KindFailure:
			t.Errorf("failure: %s: %s", s.Step, s.Error)
		}
	}
	for at, n := range ended {
		if n != 1 {
			t.Errorf("%v was ended %d times", at, n)
		}
	}
	perStep := map[string]int{"start.cold": 2, "start.python": 1, "start.exec": 10, "start.burst8": 8}
	for at, n := range counted {
		if want := perStep[at.step]; want != 0 && n != want {
			t.Errorf("%v has %d counted samples; want %d", at, n, want)
		}
	}
	if !r.Complete {
		t.Error("not complete")
	}
}

// TestResumeAfterKill cuts the sample file at many bytes, as a kill would, and goes on.
func TestResumeAfterKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := fakeConfig(t, newFake("a"), newFake("b"))
		cfg.Axes = []Axis{AxisStart, AxisDensity}
		whole := mustRun(t, cfg)
		content, err := os.ReadFile(filepath.Join(cfg.Out, samplesName))
		if err != nil {
			t.Fatal(err)
		}
		for cut := 0; cut < len(content); cut += 997 { // a prime: cuts fall anywhere in lines
			resumeAt(t, cfg, content, cut, whole)
		}
		for i, c := range content {
			if c == '\n' && i%5 == 0 {
				resumeAt(t, cfg, content, i+1, whole)
			}
		}
	})
}

// resumeAt goes on from the first cut bytes of a sample file.
func resumeAt(t testing.TB, cfg Config, content []byte, cut int, whole *Results) {
	t.Helper()
	plan, err := os.ReadFile(filepath.Join(cfg.Out, planName))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Out = t.TempDir()
	cfg.Drivers = []sandbox.Driver{newFake("a"), newFake("b")}
	cfg.memory = fakeMemory{cfg.Drivers[0].(*fakeDriver)}
	for name, b := range map[string][]byte{planName: plan, samplesName: content[:cut]} {
		if err := os.WriteFile(filepath.Join(cfg.Out, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := mustRun(t, cfg)
	checkWhole(t, cfg.Out)
	kept, err := os.ReadFile(filepath.Join(cfg.Out, samplesName))
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.LastIndexByte(content[:cut], '\n') + 1; !bytes.HasPrefix(kept, content[:lines]) {
		t.Errorf("cut at %d: what had been measured was changed", cut)
	}
	if got, want := r.Systems["b"].Metrics, whole.Systems["b"].Metrics; !maps.EqualFunc(got, want, func(a, b float64) bool { return a-b < 1 && b-a < 1 }) {
		t.Errorf("cut at %d: metrics %v; want %v", cut, got, want)
	}
	nothingLeft(t, cfg)
}

func TestSecondRunOfACompleteDirectoryMeasuresNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFake("a")
		cfg := fakeConfig(t, d)
		cfg.Axes = []Axis{AxisStart}
		first := mustRun(t, cfg)
		made := d.made
		second := mustRun(t, cfg)
		if d.made != made {
			t.Errorf("%d more sandboxes", d.made-made)
		}
		if a, b := mustJSON(t, first), mustJSON(t, second); a != b {
			t.Errorf("summary changed:\n%s\n%s", a, b)
		}
	})
}

func TestDirectoryOfAnotherRunIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := fakeConfig(t, newFake("a"))
		cfg.Axes = []Axis{AxisStart}
		mustRun(t, cfg)
		before, err := os.ReadFile(filepath.Join(cfg.Out, samplesName))
		if err != nil {
			t.Fatal(err)
		}
		for want, change := range map[string]func(*Config){
			"number of runs is 2 and not 3":               func(c *Config) { c.Runs = 3 },
			"host's boot is boot-1 and not boot-2":        func(c *Config) { c.Host.BootID = "boot-2" },
			"version of aether is test and not test2":     func(c *Config) { c.AetherVersion = "test2" },
			"memory in MiB is 256 and not 512":            func(c *Config) { c.Spec.MemoryMiB = 512 },
			"list of axes is [start-latency] and not":     func(c *Config) { c.Axes = nil },
			"list of available systems is [a] and not []": func(c *Config) { c.Drivers = []sandbox.Driver{goneDriver{newFake("a")}} },
		} {
			other := cfg
			change(&other)
			_, err := Run(context.Background(), other)
			if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "choose another --out") {
				t.Errorf("error %v; want %q", err, want)
			}
		}
		after, err := os.ReadFile(filepath.Join(cfg.Out, samplesName))
		if err != nil || !bytes.Equal(before, after) {
			t.Errorf("the samples were touched: %v", err)
		}
	})
}

// goneDriver is one whose system is no longer there.
type goneDriver struct{ sandbox.Driver }

func (d goneDriver) Probe(context.Context) sandbox.Info {
	return sandbox.Info{System: d.System(), Reason: "not installed", Remedy: "install it"}
}

func TestAbsentSystemIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := fakeConfig(t, newFake("a"), goneDriver{newFake("b")})
		cfg.Axes = []Axis{AxisStart}
		r := mustRun(t, cfg)
		if s := r.Systems["b"]; s.Available || s.Reason != "not installed" || s.Remedy != "install it" {
			t.Errorf("absent system %+v", s)
		}
	})
}

// muteDriver is one whose Probe does not come back, whatever the contract says.
type muteDriver struct {
	sandbox.Driver
	release chan struct{}
}

func (d muteDriver) Probe(context.Context) sandbox.Info {
	<-d.release
	return sandbox.Info{Available: true}
}

func TestProbeThatHangsIsAnAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		cfg := fakeConfig(t, newFake("a"), muteDriver{newFake("b"), release})
		cfg.Axes = []Axis{AxisStart}
		r := mustRun(t, cfg)
		if s := r.Systems["b"]; s.Available || !strings.Contains(s.Reason, "no answer") || s.Remedy == "" {
			t.Errorf("system whose probe hangs: %+v", s)
		}
		if !r.Complete || len(r.Values("a", "start.cold")) != 2 {
			t.Error("the other system was not measured")
		}
		close(release)
	})
}

func TestForeignDirectoryIsLeftAlone(t *testing.T) {
	cfg := fakeConfig(t, newFake("a"))
	cfg.Out = t.TempDir()
	if err := os.WriteFile(filepath.Join(cfg.Out, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "choose another --out") {
		t.Errorf("error %v", err)
	}
	if names := list(t, cfg.Out); !slices.Equal(names, []string{"thesis.txt"}) {
		t.Errorf("directory holds %v", names)
	}
}

func TestTwoBenchesDoNotShareADirectory(t *testing.T) {
	dir := t.TempDir()
	first, err := openDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openDirectory(dir); !errors.Is(err, ErrBusy) {
		t.Errorf("second writer: %v; want ErrBusy", err)
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	again, err := openDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.close(); err != nil {
		t.Fatal(err)
	}
}

func TestFilesAreReplacedWhole(t *testing.T) {
	d, err := openDirectory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.close() }()
	// What a writer that was killed has left is no obstacle.
	if err := os.WriteFile(filepath.Join(d.path, ".summary.json.tmp"), []byte("{\"torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	contents := [][]byte{bytes.Repeat([]byte("a"), 1<<20), bytes.Repeat([]byte("b"), 1<<19)}
	if err := d.writeFile(summaryName, contents[0]); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	done := make(chan error)
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := d.writeFile(summaryName, contents[i%2]); err != nil {
				done <- err
				return
			}
		}
	}()
	for range 200 {
		got, err := os.ReadFile(filepath.Join(d.path, summaryName))
		if err != nil || !slices.ContainsFunc(contents, func(c []byte) bool { return bytes.Equal(c, got) }) {
			t.Fatalf("a reader saw %d bytes, %v", len(got), err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if names := list(t, d.path); !slices.Equal(names, []string{summaryName}) {
		t.Errorf("directory holds %v", names)
	}
}

func TestSnapshotsOfAKilledBenchAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFake("a")
		cfg := fakeConfig(t, d)
		cfg.Axes = []Axis{AxisStart}
		s, err := newScratch(t.Context(), cfg.Scratch, cfg.Drivers)
		if err != nil {
			t.Fatal(err)
		}
		snap := sandbox.Snapshot{System: "a", Ref: "in the store"}
		d.snapshots[snap.Ref] = &fakeState{}
		if err := s.remember(snap); err != nil {
			t.Fatal(err)
		}
		s.lease.Abandon() // as the kernel does when a process dies
		mustRun(t, cfg)
		nothingLeft(t, cfg)
	})
}

func TestSummaryOlderThanSamplesIsComputedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := fakeConfig(t, newFake("a"))
		cfg.Axes = []Axis{AxisStart}
		ctx, cancel := context.WithCancel(context.Background())
		cfg.Progress = func(e Event) {
			if e.Kind == EventSample {
				cancel()
			}
		}
		if _, err := Run(ctx, cfg); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		stale, err := os.ReadFile(filepath.Join(cfg.Out, summaryName))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Progress = nil
		want := mustRun(t, cfg)
		// As after a kill before the summary was written again.
		if err := os.WriteFile(filepath.Join(cfg.Out, summaryName), stale, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Load(cfg.Out)
		if err != nil || mustJSON(t, got) != mustJSON(t, want) {
			t.Errorf("loaded %s, %v; want %s", mustJSON(t, got), err, mustJSON(t, want))
		}
		if err := os.Remove(filepath.Join(cfg.Out, summaryName)); err != nil {
			t.Fatal(err)
		}
		if got, err = Load(cfg.Out); err != nil || mustJSON(t, got) != mustJSON(t, want) {
			t.Errorf("without a summary: %s, %v", mustJSON(t, got), err)
		}
	})
}
