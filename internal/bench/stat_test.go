package bench

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"golang.org/x/perf/benchfmt"
)

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

func TestDescribe(t *testing.T) {
	// 1..100 out of order: nearest rank is the value itself.
	var values []float64
	for i := range 100 {
		values = append(values, float64((i*37)%100+1))
	}
	s := describe(values, "ms")
	if s.N != 100 || s.Min != 1 || s.P50 != 50 || s.P95 != 95 || s.P99 != 99 || s.Max != 100 || !near(s.Mean, 50.5) {
		t.Errorf("%+v", s)
	}
	if s.P50Low >= 50 || s.P50High <= 50 || s.P50Low < 35 || s.P50High > 66 {
		t.Errorf("interval %v to %v", s.P50Low, s.P50High)
	}
	if again := describe(values, "ms"); again != s {
		t.Errorf("not the same again: %+v", again)
	}
	few := describe([]float64{30, 10, 20, 40}, "ms")
	if few.P50 != 20 || few.P95 != 40 || few.P99 != 40 || few.Max != 40 {
		t.Errorf("p99 of four samples is their maximum, p50 a sample: %+v", few)
	}
	one := describe([]float64{7}, "ms")
	if one.P50 != 7 || one.P99 != 7 || one.P50Low != 7 || one.P50High != 7 {
		t.Errorf("%+v", one)
	}
}

func TestSlope(t *testing.T) {
	x := []float64{0, 1, 2, 4, 8}
	if got := slope(x, []float64{5, 8, 11, 17, 29}); !near(got, 3) {
		t.Errorf("slope %v; want 3", got)
	}
	// By hand: mean x 3, mean y 4; sum of (x-3)(y-4) = 9+2+0+0+20 = 31, over the sum of (x-3)^2 = 40.
	if got := slope(x, []float64{1, 3, 4, 4, 8}); !near(got, 31.0/40) {
		t.Errorf("slope %v; want %v", got, 31.0/40)
	}
}

func sampleSeries(system, name, unit string, values ...float64) []Sample {
	var out []Sample
	for i, v := range values {
		out = append(out,
			Sample{System: system, Step: "start.cold", Round: i, Name: name, Value: v, Unit: unit},
			Sample{System: system, Step: "start.cold", Round: i, Kind: KindDone})
	}
	return out
}

func TestMetrics(t *testing.T) {
	var samples []Sample
	samples = append(samples, sampleSeries("a", "start.cold", "ms", 30, 10, 20, 40)...)
	samples = append(samples, sampleSeries("a", "control.job", "count", 1, 0, 1, 1)...)
	samples = append(samples, sampleSeries("a", "snapshot.fork.unique", "ratio", 1, 1, 0, 0)...)
	samples = append(samples, sampleSeries("a", "density.sandboxes", "count", 8, 4)...)
	samples = append(samples, sampleSeries("a", "isolation.syscalls", "count", 300)...)
	samples = append(samples, sampleSeries("b", "start.cold", "ms", 1)...)
	// An attempt without an end does not count.
	samples = append(samples, Sample{System: "a", Step: "start.cold", Round: 9, Name: "start.cold", Value: 1e6, Unit: "ms"})
	markInterrupted(samples)
	got := seriesOf(samples, "a").metrics()
	want := map[string]float64{
		"start.cold.p50_ms": 20, "start.cold.p95_ms": 40, "start.cold.p99_ms": 40,
		"control.jobs_count": 3, "control.jobs_ratio": 0.75, "snapshot.fork.unique_ratio": 0.5,
		"density.sandboxes_count": 8, "isolation.syscalls_count": 300,
	}
	for name, v := range want {
		if !near(got[name], v) {
			t.Errorf("%s = %v; want %v", name, got[name], v)
		}
	}
	if len(got) != len(want) {
		t.Errorf("metrics %v", got)
	}
}

func TestDiff(t *testing.T) {
	make := func(values ...float64) *Results {
		samples := sampleSeries("a", "start.cold", "ms", values...)
		markInterrupted(samples)
		return &Results{Samples: samples, Systems: map[string]*System{"a": {Available: true, Metrics: seriesOf(samples, "a").metrics()}}}
	}
	slow := make(100, 101, 102, 103, 104, 105, 106, 107, 108, 109)
	fast := make(50, 51, 52, 53, 54, 55, 56, 57, 58, 59)
	d := Diff(slow, fast)
	if len(d) != 3 || d[0].Metric != "start.cold.p50_ms" {
		t.Fatalf("%+v", d)
	}
	if p50 := d[0]; !near(*p50.Ratio, 54.0/104) || !p50.Differs || *p50.P > 0.001 || p50.NA != 10 ||
		!(*p50.RatioLow <= *p50.Ratio && *p50.Ratio <= *p50.RatioHigh && *p50.RatioHigh < 0.6) {
		t.Errorf("%+v", p50)
	}
	for _, d := range Diff(slow, slow) {
		if d.Differs || !near(*d.Ratio, 1) {
			t.Errorf("a result differs from itself: %+v", d)
		}
	}
	for _, d := range Diff(slow, &Results{}) {
		if d.B != nil || d.Ratio != nil || d.P != nil || d.A == nil {
			t.Errorf("against nothing: %+v", d)
		}
	}
}

func TestBenchTextIsReadByBenchstat(t *testing.T) {
	samples := append(sampleSeries("a", "start.cold", "ms", 1.5, 2), sampleSeries("b", "density.idle", "mib", 7)...)
	markInterrupted(samples)
	r := &Results{
		Host:    Host{CPU: "Some  CPU", Arch: "amd64", Kernel: "6.1"},
		Systems: map[string]*System{"a": {Version: "1.0", Accelerator: "tcg"}, "b": {Version: "2.0"}},
	}
	reader := benchfmt.NewReader(bytes.NewReader(benchText(r, samples)), "bench.txt")
	var got []string
	for reader.Scan() {
		res, ok := reader.Result().(*benchfmt.Result)
		if !ok {
			t.Fatalf("%v", reader.Result())
		}
		got = append(got, strings.Join([]string{res.Name.String(), res.GetConfig("accelerator"), res.Values[0].Unit}, " "))
		if res.Name.String() == "StartCold/system=a" && len(got) == 1 && !near(res.Values[0].Value, 0.0015) {
			t.Errorf("value %v; want 1.5 ms in seconds", res.Values[0].Value)
		}
	}
	if err := reader.Err(); err != nil {
		t.Fatal(err)
	}
	want := "StartCold/system=a tcg sec/op,StartCold/system=a tcg sec/op,DensityIdle/system=b  MiB"
	if s := strings.Join(got, ","); s != want {
		t.Errorf("read %q; want %q", s, want)
	}
}
