package cell

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIdle()
		defer i.timer.Stop()
		i.loaded()
		freed := func() time.Time {
			synctest.Wait()
			i.mu.Lock()
			defer i.mu.Unlock()
			return i.last
		}
		for range 10 {
			time.Sleep(quietDelay / 2)
			i.busy()
		}
		if last := freed(); !last.IsZero() {
			t.Error("memory is given back by a cell that is busy")
		}
		time.Sleep(quietDelay)
		first := freed()
		if first.IsZero() {
			t.Fatal("an idle cell keeps its memory")
		}
		i.busy()
		time.Sleep(freeInterval)
		if !freed().Equal(first) {
			t.Error("memory is given back for little")
		}
		for range many {
			i.busy()
		}
		time.Sleep(quietDelay)
		if !freed().After(first) {
			t.Fatal("an idle cell keeps its memory after many streams")
		}
		first = freed()
		i.busy()
		time.Sleep(freeInterval - time.Nanosecond)
		if !freed().Equal(first) {
			t.Error("memory is given back too often")
		}
		time.Sleep(time.Nanosecond)
		second := freed()
		if second.Equal(first) {
			t.Error("an idle cell keeps its memory after one more")
		}
		time.Sleep(time.Hour)
		if !freed().Equal(second) {
			t.Error("memory is given back where nothing has happened")
		}
	})
}

// TestIdleCopy: one that has loaded no kernel collects nothing before there is much.
func TestIdleCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIdle()
		defer i.timer.Stop()
		given := func() bool {
			synctest.Wait()
			i.mu.Lock()
			defer i.mu.Unlock()
			return !i.last.IsZero()
		}
		time.Sleep(2 * time.Hour)
		for range many - 1 {
			i.busy()
		}
		time.Sleep(freeInterval)
		if given() {
			t.Error("memory is given back for little")
		}
		i.busy()
		time.Sleep(freeInterval)
		if !given() {
			t.Error("an idle cell keeps its memory after many streams")
		}
	})
}
