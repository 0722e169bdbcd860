package bench

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// snapshotMetrics measures the snapshotting axis of a system.
func snapshotMetrics(t *testing.T, d sandbox.Driver) (map[string]float64, string) {
	t.Helper()
	cfg := fakeConfig(t, d)
	cfg.Axes = []Axis{AxisSnapshot}
	r := mustRun(t, cfg)
	nothingLeft(t, cfg)
	s := r.Systems[d.System()]
	return s.Metrics, strings.Join(s.Notes, "\n")
}

func TestClonedRandomnessIsCaught(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFake("a")
		d.clonesRNG = true
		got, notes := snapshotMetrics(t, d)
		if v := got["snapshot.fork.unique_ratio"]; v != 0 {
			t.Errorf("unique %v of forks that share one generator, at different places; want 0", v)
		}
		if !strings.Contains(notes, "same random numbers") {
			t.Errorf("notes %q", notes)
		}
		if v := got["snapshot.fork.prng_ratio"]; v != 1 {
			t.Errorf("prng %v; want 1", v)
		}
	})
}

func TestClonedProgramStateIsToldApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFake("a")
		d.clonesPRNG = true
		got, _ := snapshotMetrics(t, d)
		if got["snapshot.fork.unique_ratio"] != 1 || got["snapshot.fork.prng_ratio"] != 0 {
			t.Errorf("unique %v, prng %v; want 1, 0", got["snapshot.fork.unique_ratio"], got["snapshot.fork.prng_ratio"])
		}
	})
}

func TestClockOfThePastIsCaught(t *testing.T) {
	for lag, want := range map[time.Duration]float64{0: 1, 900 * time.Millisecond: 1, 1100 * time.Millisecond: 0, -2 * time.Second: 0} {
		synctest.Test(t, func(t *testing.T) {
			d := newFake("a")
			d.clockLag = lag
			if got, _ := snapshotMetrics(t, d); got["snapshot.fork.clock_ratio"] != want {
				t.Errorf("lag %v: clock %v; want %v", lag, got["snapshot.fork.clock_ratio"], want)
			}
		})
	}
}

func TestPauseThatDoesNotPauseIsCaught(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFake("a")
		d.ignoresEnd = true
		if got, notes := snapshotMetrics(t, d); got["snapshot.pause_ratio"] != 0 || !strings.Contains(notes, "went on") {
			t.Errorf("pause %v, notes %q", got["snapshot.pause_ratio"], notes)
		}
	})
}

func TestSnapshotOfFilesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFake("a")
		d.kind = sandbox.SnapshotFiles
		got, _ := snapshotMetrics(t, d)
		if got["snapshot.memory_survives_ratio"] != 0 || got["snapshot.files_survive_ratio"] != 1 || got["snapshot.fork.unique_ratio"] != 1 {
			t.Errorf("metrics %v", got)
		}
		if _, ok := got["snapshot.fork.prng_ratio"]; ok {
			t.Error("no program ran that could have a generator")
		}
	})
}

func TestSystemWithoutSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFake("a")
		cfg := fakeConfig(t, plainDriver{d})
		cfg.Axes = []Axis{AxisSnapshot, AxisDensity, AxisControl}
		r := mustRun(t, cfg)
		got := r.Systems["a"].Metrics
		for _, name := range []string{"snapshot.memory_survives_ratio", "snapshot.files_survive_ratio", "snapshot.pause_ratio"} {
			if v, ok := got[name]; !ok || v != 0 {
				t.Errorf("%s = %v, %v; want 0", name, v, ok)
			}
		}
		for name := range got {
			if strings.HasPrefix(name, "density.idle") || strings.HasSuffix(name, "_ms") {
				t.Errorf("%s = %v of a system that cannot", name, got[name])
			}
		}
		if n := len(r.Values("a", "snapshot.pause")); n != 1 {
			t.Errorf("asked %d times for what is not there", n)
		}
		for _, j := range r.Jobs["a"].Jobs {
			if lacks := slices.Contains([]string{"pause", "snapshot", "stats"}, j.Needs); lacks != j.NoAbility {
				t.Errorf("job %s: no ability is %v", j.Name, j.NoAbility)
			}
		}
	})
}

func TestRestoreThatFailsCountsAsNoSurvival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFake("a")
		cfg := fakeConfig(t, brokenRestore{d})
		cfg.Axes = []Axis{AxisSnapshot}
		r := mustRun(t, cfg)
		s := r.Systems["a"]
		if v, ok := s.Metrics["snapshot.memory_survives_ratio"]; !ok || v != 0 {
			t.Errorf("memory survives %v, %v; want 0", v, ok)
		}
		if v, ok := s.Metrics["snapshot.restore.p50_ms"]; ok {
			t.Errorf("restored in %v", v)
		}
		if !strings.Contains(strings.Join(s.Notes, "\n"), "out of luck") {
			t.Errorf("notes %q", s.Notes)
		}
		if sandboxes, snapshots := d.left(); sandboxes+snapshots != 0 {
			t.Errorf("%d sandboxes, %d snapshots are left", sandboxes, snapshots)
		}
	})
}

type brokenRestore struct{ *fakeDriver }

func (brokenRestore) Restore(context.Context, sandbox.Snapshot) (sandbox.Sandbox, error) {
	return nil, fmt.Errorf("out of luck")
}

func TestDistinct(t *testing.T) {
	children := []child{
		{kernel: []string{"a", "b"}, prng: []string{"x"}},
		{kernel: []string{"c", "d", "c"}, prng: []string{"x"}}, // twice in one child is its own matter
		{kernel: []string{"e", "b"}, prng: []string{"y"}},
		{},
	}
	kernel, prng := distinct(children)
	if want := []bool{false, true, false, false}; !slices.Equal(kernel, want) {
		t.Errorf("kernel %v; want %v", kernel, want)
	}
	if want := []bool{false, false, true, false}; !slices.Equal(prng, want) {
		t.Errorf("prng %v; want %v", prng, want)
	}
}

func TestJudgeError(t *testing.T) {
	p := provocation{name: "p", kinds: []error{sandbox.ErrInvalid, fs.ErrPermission}}
	whole := &sandbox.Error{Op: "x", Err: sandbox.ErrInvalid, Detail: "d", Remedy: "r"}
	for _, test := range []struct {
		name    string
		err     error
		missing []string
	}{
		{"whole", whole, nil},
		{"wrapped", fmt.Errorf("more: %w", whole), nil},
		{"other kind", &sandbox.Error{Err: sandbox.ErrDead, Detail: "d", Remedy: "r"}, []string{"kind"}},
		{"no remedy", &sandbox.Error{Err: fs.ErrPermission, Detail: "d", Remedy: " "}, []string{"remedy"}},
		{"bare", fs.ErrPermission, []string{"type", "detail", "remedy"}},
		{"none", nil, []string{"error"}},
	} {
		got := judgeError(p, test.err)
		if !slices.Equal(got.Missing, test.missing) || got.Typed != (test.missing == nil) || got.Accepted {
			t.Errorf("%s: %+v; want missing %v", test.name, got, test.missing)
		}
	}
	p.mayAccept = true
	if got := judgeError(p, nil); !got.Accepted || got.Typed {
		t.Errorf("accepted: %+v", got)
	}
}

func TestTokensAreCountedAlike(t *testing.T) {
	// By the reference implementation: "hello", " world".
	for range 2 {
		for text, want := range map[string]int{"": 0, "hello world": 2} {
			if n, err := countTokens(text); err != nil || n != want {
				t.Errorf("%q has %d tokens, %v; want %d", text, n, err, want)
			}
		}
	}
	if n, err := countTokens("\xff\xfe not UTF-8"); err != nil || n == 0 {
		t.Errorf("%d tokens, %v", n, err)
	}
	var m meter
	for range 3 {
		m.observe(sandbox.Call{Sent: 10, Received: 5, Request: "hello world", Reply: "hello world"})
	}
	if c, err := m.cost(); err != nil || c != (Cost{Calls: 3, WireBytes: 45, Tokens: 12}) {
		t.Errorf("cost %+v, %v", c, err)
	}
}

func TestCallsWithoutTextMakeTokensUnknown(t *testing.T) {
	for _, test := range []struct {
		call     sandbox.Call
		textless int
	}{
		{sandbox.Call{Sent: 5, Received: 2, Request: "hello", Reply: "ok"}, 0},
		{sandbox.Call{Sent: 5, Request: "hello"}, 0}, // no reply, so no text of one
		{sandbox.Call{Sent: 5, Received: 2, Request: "hello"}, 1},
		{sandbox.Call{Sent: 5, Received: 2}, 1},
	} {
		var m meter
		m.observe(test.call)
		c, err := m.cost()
		if err != nil || c.Textless != test.textless {
			t.Errorf("%+v: cost %+v, %v", test.call, c, err)
		}
		got := map[string]float64{}
		s := session{emit: func(s Sample) error { got[s.Name] = s.Value; return nil }}
		s.recordCost(c)
		if _, known := got["control.tokens"]; known != (test.textless == 0) || got["control.calls"] != 1 {
			t.Errorf("%+v: recorded %v", test.call, got)
		}
	}
}

func TestJobsAreNamedAndDistinct(t *testing.T) {
	seen := map[string]bool{}
	core := 0
	for _, j := range jobs() {
		if j.name == "" || j.needs == "" || j.verified == "" || seen[j.name] {
			t.Errorf("job %+v", j)
		}
		seen[j.name] = true
		if j.needs == needsCore {
			core++
		}
	}
	if len(seen) < 20 || core < 8 {
		t.Errorf("%d jobs, %d of them core", len(seen), core)
	}
	if jobs()[0].name != jobCreate {
		t.Error("the first job must make the sandbox that the others use")
	}
}

// TestJobsAreDocumented: the document's table is the list.
func TestJobsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs() {
		if row := fmt.Sprintf("| `%s` | %s | %s |\n", j.name, j.needs, j.verified); !strings.Contains(string(doc), row) {
			t.Errorf("docs/METRICS.md lacks the row %q", row)
		}
	}
	for _, rule := range metricRules() {
		// A row may give the quantiles of one series together: `start.cold.p50_ms` `.p95_ms`.
		i := strings.LastIndexByte(rule.metric, '.')
		if !strings.Contains(string(doc), "`"+rule.metric+"`") && !strings.Contains(string(doc), "`"+rule.metric[i:]+"`") {
			t.Errorf("docs/METRICS.md lacks %s", rule.metric)
		}
	}
}
