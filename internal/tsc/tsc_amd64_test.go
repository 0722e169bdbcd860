package tsc

import "testing"

func TestKHz(t *testing.T) {
	a, b := KHz(), KHz()
	if a < 100_000 || a > 20_000_000 {
		t.Fatalf("%d kHz is no CPU's frequency", a)
	}
	// Two measurements agree to 100 ppm even if this process is interrupted.
	if d := a - b; d > a/10_000 || d < -a/10_000 {
		t.Errorf("measured %d and %d kHz", a, b)
	}
}
