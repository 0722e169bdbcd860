package bench

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/aethervm/aether/sandbox"
)

// FuzzReadSamples: whatever a sample file holds, reading it and reading its whole lines again give
// the same, and what is read can be summarised.
func FuzzReadSamples(f *testing.F) {
	f.Add([]byte(`{"time":"2000-01-01T00:00:00Z","round":0,"system":"docker","step":"start.cold","name":"start.cold","value":1.5,"unit":"ms"}` + "\n" +
		`{"time":"2000-01-01T00:00:01Z","round":0,"system":"docker","step":"start.cold","kind":"done","value":0}` + "\n" + `{"torn`))
	f.Add([]byte(`{"system":"a","kind":"dropped","error":"x"}` + "\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		samples, whole, err := readSamples(bytes.NewReader(content))
		if err != nil {
			return
		}
		if whole < 0 || whole > int64(len(content)) || (whole > 0 && content[whole-1] != '\n') {
			t.Fatalf("whole is %d of %d", whole, len(content))
		}
		again, n, err := readSamples(bytes.NewReader(content[:whole]))
		if err != nil || n != whole || len(again) != len(samples) {
			t.Fatalf("read again: %d samples, %d bytes, %v", len(again), n, err)
		}
		p := plan{Runs: 1, Axes: Axes(), Systems: map[string]planInfo{"docker": {Available: true}, "a": {Available: true}}}
		r := summarise(p, samples)
		_ = benchText(r, samples)
		r.Samples = samples
		_ = r.Profiles()
		_ = Diff(r, r)
	})
}

// FuzzLoad: no content of the files of a results directory makes Load panic, and what it accepts
// can be used.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{"schema":1,"runs":1,"axes":["start-latency"],"systems":{"docker":{"available":true,"metrics":{"start.cold.p50_ms":1}}}}`),
		[]byte(`{"schema":1,"runs":2,"systems":{"docker":{"available":true}}}`), []byte(`{"jobs":[]}`))
	f.Add([]byte(`{"schema":2}`), []byte(`{}`), []byte(`null`))
	f.Add([]byte(``), []byte(`{"schema":1,"runs":1,"systems":{"../x":{}}}`), []byte(`[]`))
	f.Fuzz(func(t *testing.T, summary, plan, jobs []byte) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{summaryName: summary, planName: plan, jobsDir + "/docker.json": jobs} {
			if len(b) == 0 {
				continue
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r, err := Load(dir)
		if err != nil {
			return
		}
		_ = r.Profiles()
		_ = Diff(r, r)
		for name := range r.Systems {
			if filepath.Base(name) != name {
				t.Fatalf("accepted the system %q", name)
			}
		}
	})
}

// FuzzResume: a sample file that was cut off at any byte is taken up again to the same end.
func FuzzResume(f *testing.F) {
	for _, cut := range []uint{0, 1, 100, 2000, 5000} {
		f.Add(cut)
	}
	f.Fuzz(func(t *testing.T, cut uint) {
		synctest.Test(t, func(t *testing.T) {
			cfg := fakeConfig(t, newFake("a"), newFake("b"))
			cfg.Axes, cfg.Runs = []Axis{AxisStart}, 1
			whole := mustRun(t, cfg)
			content, err := os.ReadFile(filepath.Join(cfg.Out, samplesName))
			if err != nil {
				t.Fatal(err)
			}
			resumeAt(t, cfg, content, int(cut%uint(len(content)+1)), whole)
		})
	})
}

// FuzzGuestReplies: what a guest answers is read without harm.
func FuzzGuestReplies(f *testing.F) {
	f.Add("1700000000.123456789")
	f.Add("-1.-00000001")
	f.Add("99999999999999999999.0")
	f.Fuzz(func(t *testing.T, text string) {
		if at, err := parseUnix(text); err == nil && at.IsZero() {
			t.Errorf("%q is the zero time", text)
		}
	})
}

var _ sandbox.Driver = (*fakeDriver)(nil)
