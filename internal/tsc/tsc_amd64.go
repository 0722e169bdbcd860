// Package tsc measures the frequency of this host's time-stamp counter.
//
// A guest under software emulation sees the host's counter, but has to find out its frequency from
// an emulated timer while the host schedules it as it likes. On a busy host it fails, and a kernel
// without another clock then hangs. Told the frequency, it needs no calibration.
package tsc

import "time"

// read returns the counter.
func read() uint64

// window of a measurement. The error is that of reading two clocks at once, some tens of
// nanoseconds, in proportion to it.
const window = 20 * time.Millisecond

// KHz returns the counter's frequency in kHz, measured against the monotonic clock in about 20 ms.
func KHz() int {
	startTicks, startTime := both()
	time.Sleep(window)
	endTicks, endTime := both()
	elapsed := endTime.Sub(startTime)
	return int(float64(endTicks-startTicks) / float64(elapsed) * 1e6)
}

// both reads the two clocks at one instant: of several tries that which took the fewest ticks.
func both() (ticks uint64, at time.Time) {
	best := ^uint64(0)
	for range 64 {
		before := read()
		now := time.Now()
		took := read() - before
		if took < best {
			best, ticks, at = took, before+took/2, now
		}
	}
	return ticks, at
}
