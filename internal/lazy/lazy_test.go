package lazy

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestValue(t *testing.T) { synctest.Test(t, testValue) }

func testValue(t *testing.T) {
	var v Value[int]
	var made atomic.Int32
	failed := errors.New("failed")
	if _, err := v.Get(t.Context(), func(context.Context) (int, error) { return 0, failed }); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			got, err := v.Get(t.Context(), func(context.Context) (int, error) {
				made.Add(1)
				time.Sleep(10 * time.Millisecond)
				return 7, nil
			})
			if got != 7 || err != nil {
				t.Errorf("got %d, %v", got, err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("made %d times", made.Load())
	}
	if got, ok := v.Take(); got != 7 || !ok {
		t.Errorf("took %d, %v", got, ok)
	}
	if _, ok := v.Take(); ok {
		t.Error("took twice")
	}
	// One that waits for another's attempt waits no longer than its context.
	release := make(chan struct{})
	wg.Go(func() {
		_, _ = v.Get(context.Background(), func(context.Context) (int, error) { <-release; return 0, nil })
	})
	synctest.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := v.Get(ctx, func(context.Context) (int, error) { return 0, failed }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(release)
	wg.Wait()
}
