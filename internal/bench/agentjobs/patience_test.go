package agentjobs

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestPatience grants a job the time that its sandboxes take to start, and none more.
func TestPatience(t *testing.T) {
	const start = 40 * time.Second
	working := func(work time.Duration) job {
		return job{do: func(ctx context.Context, w *worker) error {
			for range 6 {
				if !sleep(ctx, start) {
					return context.Cause(ctx)
				}
				w.patience.grant(start)
			}
			if !sleep(ctx, work) {
				return context.Cause(ctx)
			}
			return nil
		}}
	}
	for work, done := range map[time.Duration]bool{limit - time.Second: true, limit + time.Second: false} {
		synctest.Test(t, func(t *testing.T) {
			r := (&worker{}).try(t.Context(), working(work))
			if r.Done != done || !done && !strings.Contains(r.Error, "not done within 3m0s") {
				t.Errorf("%v of work: %+v", work, r)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		r := (&worker{}).try(t.Context(), job{do: func(ctx context.Context, w *worker) error {
			defer w.patience.grant(time.Hour) // of a start that was given up: too late
			sleep(ctx, time.Hour)
			return context.Cause(ctx)
		}})
		if r.Done || r.Duration != limit {
			t.Errorf("a start that does not end: %+v", r)
		}
	})
}
