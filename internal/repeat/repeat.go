// Package repeat does something now and then.
package repeat

import (
	"sync"
	"time"
)

// Every calls f every d, in one goroutine, until f is false or stop is called, which waits for a call in progress and must not be
// made by f. stop must be called once.
func Every(d time.Duration, f func() (more bool)) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(d)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
			}
			if !f() {
				return
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}
