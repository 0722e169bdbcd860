package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"html"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/bench"
	"github.com/aethervm/aether/internal/probe/finding"
	"github.com/aethervm/aether/vms"
)

var update = flag.Bool("update", false, "write golden files anew")

func synthetic(t *testing.T) *bench.Results {
	t.Helper()
	r, err := bench.Load("testdata/synthetic")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func page1(t *testing.T, r *bench.Results) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func page2(t *testing.T, a, b *bench.Results) string {
	t.Helper()
	var buf bytes.Buffer
	if err := Compare(&buf, a, b); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func TestGolden(t *testing.T) {
	const name = "testdata/synthetic.html"
	got := page1(t, synthetic(t))
	if again := page1(t, synthetic(t)); again != got {
		t.Fatal("two pages about the same results differ")
	}
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Fatalf("the page is not %s; look at the difference, then run with -update", name)
	}
}

func TestPageSaysWhatItMust(t *testing.T) {
	got := html.UnescapeString(page1(t, synthetic(t)))
	for _, want := range []string{
		"SYNTHETIC EXAMPLE", "QEMU/KVM (TCG)", "Content-Security-Policy",
		"AetherVM is not built yet", "no firecracker on PATH",
		"gap", "n = 100", "start.cold.p50_ms", "snapshot.fork10.total_ms", "Jobs", "Provoked errors",
		"better", "worse", "unknown", "1 run failed",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, axis := range vms.Axes() {
		if !strings.Contains(got, `id="`+axis.String()+`"`) {
			t.Errorf("no section about %s", axis)
		}
	}
	if n := strings.Count(got, `<svg class="plot"`); n < 10 {
		t.Errorf("%d plots", n)
	}
	if strings.Count(got, "<svg ") != strings.Count(got, `role="img" aria-label="`) {
		t.Error("a plot without a text for those who cannot see it")
	}
}

// hostile makes every text that a sandbox, a system or a stranger's file can have a say in an attack.
func hostile(t *testing.T) *bench.Results {
	const attack = `"><script>alert(1)</script><img src=http://x.invalid/ onerror=alert(1)>'--></style></svg>`
	r := synthetic(t)
	r.AetherVersion, r.RubricVersion = attack, attack
	r.Host.CPU, r.Host.Kernel, r.Host.OS, r.Host.Arch = attack, attack, attack, attack
	r.Host.Facts = map[string]string{attack: attack}
	r.Spec.ImageDigest = attack
	r.Dir = attack
	for _, s := range r.Systems {
		s.Reason, s.Remedy, s.Version, s.Accelerator = attack, attack, attack, attack
		s.Notes = []string{"start." + attack, "control." + attack}
	}
	f := []finding.Finding{{Name: attack, Value: attack, Verdict: attack, Detail: attack, Items: []string{attack}}}
	raw, err := json.Marshal(bench.ProbeReport{Inside: f, Outside: f, Bombs: f})
	if err != nil {
		t.Fatal(err)
	}
	r.Probes["docker"] = raw
	r.Jobs["docker"] = &bench.JobReport{
		Jobs:   []bench.JobResult{{Name: attack, Needs: attack, Verified: attack, Error: attack}},
		Errors: []bench.ProvokedError{{Name: attack, Missing: []string{attack}, Kind: attack, Text: attack}},
	}
	r.Systems[attack] = &bench.System{
		Available: true, Metrics: map[string]float64{"start." + attack + "_ms": 1},
		Stats: map[string]bench.Stat{"start." + attack: {Unit: "ms", N: 1}},
	}
	r.Samples = append(r.Samples, bench.Sample{System: attack, Name: "start." + attack, Value: 3, Unit: "ms"})
	return r
}

var tagPattern = regexp.MustCompile(`<[a-zA-Z/!][^>]*>`)

func TestHostileTextIsOnlyText(t *testing.T) {
	for name, got := range map[string]string{
		"page":       page1(t, hostile(t)),
		"comparison": page2(t, hostile(t), synthetic(t)),
	} {
		for _, tag := range tagPattern.FindAllString(got, -1) {
			lower := strings.ToLower(tag)
			for _, bad := range []string{"<script", "<img", "<iframe", "onerror=", "src=", "url("} {
				// An attribute may quote an attack, escaped: then it holds no quote and no "<".
				if strings.HasPrefix(bad, "<") && strings.HasPrefix(lower, bad) {
					t.Fatalf("%s: hostile text became markup: %s", name, tag)
				}
			}
		}
		if n := strings.Count(got, "</style>"); n != 1 {
			t.Errorf("%s: %d ends of style sheets", name, n)
		}
		if a, b := strings.Count(got, "<svg "), strings.Count(got, "</svg>"); a != b {
			t.Errorf("%s: %d plots begin and %d end", name, a, b)
		}
		if strings.Contains(got, "<script") {
			t.Errorf("%s: a script", name)
		}
	}
}

func TestNothingIsLoaded(t *testing.T) {
	got := page1(t, synthetic(t))
	for _, tag := range tagPattern.FindAllString(got, -1) {
		for _, bad := range []string{" src=", "@import", "url(", "<link", "<script", "xlink:href"} {
			if strings.Contains(tag, bad) {
				t.Errorf("the page loads something: %s", tag)
			}
		}
		if strings.Contains(tag, "href=") && !strings.Contains(tag, `href="#`) {
			t.Errorf("a link leads out of the page: %s", tag)
		}
	}
}

func TestStrangeValuesAreDrawnOrLeftOut(t *testing.T) {
	r := synthetic(t)
	for i, v := range []float64{0, -5, 1e300, -1e300, 5e-324, 1e11} {
		r.Samples = append(r.Samples, bench.Sample{System: "docker", Name: "start.cold", Value: v, Unit: "ms", Index: i})
		r.Samples = append(r.Samples, bench.Sample{System: "docker", Name: "density.total", Value: v, Unit: "mib", Index: i})
	}
	if got := page1(t, r); strings.Contains(got, "NaN") || strings.Contains(got, "Inf,") {
		t.Error("a coordinate is not a number")
	}
}

func TestSparseResults(t *testing.T) {
	r := &bench.Results{Schema: bench.Schema, Runs: 1, Systems: map[string]*bench.System{
		"docker": {Available: true},
		"gvisor": {Available: true, Metrics: map[string]float64{"start.cold.p50_ms": 12}, Axes: map[bench.Axis]float64{bench.AxisStart: 0.5}},
		"kata":   {Reason: "not there"},
	}, Axes: []bench.Axis{bench.AxisStart}}
	got := page1(t, r)
	for _, want := range []string{"not measured", "not complete", "was not asked for", "nothing was measured", "not there"} {
		if !strings.Contains(got, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	empty := page1(t, &bench.Results{})
	if !strings.Contains(empty, "No system was measured") {
		t.Error("the page about nothing does not say so")
	}
	page2(t, &bench.Results{}, r)
}

func TestCompareSaysWhatChanged(t *testing.T) {
	a, b := synthetic(t), synthetic(t)
	b.Started = b.Started.Add(24 * time.Hour)
	b.Host.Kernel = "1.1.1-other"
	for i := range b.Samples {
		if s := &b.Samples[i]; s.System == "docker" && s.Name == "start.cold" {
			s.Value /= 2
		}
	}
	b.Systems["docker"].Metrics["start.cold.p50_ms"] /= 2
	delete(b.Systems, "gvisor")
	got := html.UnescapeString(page2(t, a, b))
	for _, want := range []string{"The kernel differs: 0.0.0-example in A, 1.1.1-other in B", "differs", "no difference shown", "0.5", "Docker A", "Docker B", "gVisor A"} {
		if !strings.Contains(got, want) {
			t.Errorf("the comparison does not say %q", want)
		}
	}
	if strings.Contains(got, "gVisor B") {
		t.Error("the comparison has figures of a system that B has not measured")
	}
	if got != html.UnescapeString(page2(t, a, b)) {
		t.Error("two comparisons of the same results differ")
	}
}

func TestFailingWriterIsReported(t *testing.T) {
	if err := Write(failing{}, synthetic(t)); err == nil {
		t.Error("Write to a full disk is no error")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }
