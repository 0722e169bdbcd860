package repeat

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		stop := Every(time.Second, func() bool { n++; return true })
		time.Sleep(3500 * time.Millisecond)
		stop()
		time.Sleep(5 * time.Second)
		if n != 3 {
			t.Errorf("%d calls", n)
		}
		n = 0
		stop = Every(time.Second, func() bool { n++; return n < 2 })
		time.Sleep(5 * time.Second)
		stop()
		if n != 2 {
			t.Errorf("%d calls", n)
		}
		// stop waits for a call.
		begun, ended := make(chan struct{}), false
		stop = Every(time.Second, func() bool {
			close(begun)
			time.Sleep(time.Minute)
			ended = true
			return false
		})
		<-begun
		stop()
		if !ended {
			t.Error("it did not wait")
		}
	})
}
