package report

import (
	"math"
	"testing"
)

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", 0.5: "0.5", 6.8312: "6.83", 12.04: "12", 340.4: "340", 1234.5: "1,234", 1234567: "1,234,567",
		-2.5: "−2.5", -1234: "−1,234", 0.001234: "0.00123", 1e-7: "1e-07", 1e20: "1e+20",
		math.Inf(1): "–",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
	if got := number(math.NaN()); got != "–" {
		t.Errorf("number(NaN) = %q", got)
	}
}

func TestRound125(t *testing.T) {
	for _, c := range []struct{ v, down, up float64 }{{1, 1, 1}, {1.5, 1, 2}, {3, 2, 5}, {7, 5, 10}, {430, 200, 500}, {0.03, 0.02, 0.05}} {
		if down, up := roundDown(c.v), roundUp(c.v); math.Abs(down/c.down-1) > 1e-9 || math.Abs(up/c.up-1) > 1e-9 {
			t.Errorf("%v rounds to %v and %v, want %v and %v", c.v, down, up, c.down, c.up)
		}
	}
}

func TestTicksLieOnTheAxis(t *testing.T) {
	for _, r := range [][2]float64{{1, 10}, {5, 200}, {0.1, 1e9}, {20, 500}, {1e-9, 1e9}} {
		ticks := logTicks{}.Ticks(r[0], r[1])
		labels := 0
		for _, tick := range ticks {
			if tick.Value < r[0]*0.999 || tick.Value > r[1]*1.001 {
				t.Errorf("tick %v outside %v", tick.Value, r)
			}
			if tick.Label != "" {
				labels++
			}
		}
		if labels < 2 || labels > 12 {
			t.Errorf("%d labels on %v", labels, r)
		}
	}
	for _, r := range [][2]float64{{0, 1}, {0, 4300}, {-10, 90}, {0, 1e12}} {
		if n := len(linearTicks{}.Ticks(r[0], r[1])); n < 3 || n > 12 {
			t.Errorf("%d ticks on %v", n, r)
		}
	}
	if n := len(linearTicks{}.Ticks(1, 1)) + len(logTicks{}.Ticks(0, 1)); n != 0 {
		t.Errorf("%d ticks on no axis", n)
	}
}

func TestQuantileIsAMeasuredValue(t *testing.T) {
	sorted := []float64{1, 2, 3, 4}
	for q, want := range map[float64]float64{0: 1, 0.25: 1, 0.5: 2, 0.75: 3, 0.99: 4, 1: 4} {
		if got := quantile(sorted, q); got != want {
			t.Errorf("quantile(%v) = %v, want %v", q, got, want)
		}
	}
}
