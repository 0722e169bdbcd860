package main

import (
	"errors"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/floor"
)

// effort is what something has taken: time, and time of processors, which does not grow with the wait for one.
type effort struct{ took, cpu time.Duration }

// processorTime is what who has had of processors since it began; see unix.Getrusage. Of children it knows those that have
// been waited for.
func processorTime(who ...int) (sum time.Duration, err error) {
	for _, w := range who {
		var use unix.Rusage
		if err := unix.Getrusage(w, &use); err != nil {
			return 0, err
		}
		sum += time.Duration(use.Utime.Nano() + use.Stime.Nano())
	}
	return sum, nil
}

// measured does something and tells what it has taken of this process, and of cells that it has ended.
func measured(do func() error) (effort, error) {
	cpu, err := processorTime(unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN)
	if err != nil {
		return effort{}, err
	}
	begin := time.Now()
	if err := do(); err != nil {
		return effort{}, err
	}
	took := time.Since(begin)
	after, err := processorTime(unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN)
	return effort{took, after - cpu}, err
}

// floors makes forks at the floor, and frees each, on a thread of its own.
type floors struct {
	next chan struct{}
	done chan error
	last effort // of the fork before done
}

func newFloors(memoryMiB int) (*floors, error) {
	f := &floors{next: make(chan struct{}), done: make(chan error)}
	go f.serve(memoryMiB)
	if err := <-f.done; err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *floors) serve(memoryMiB int) {
	runtime.LockOSThread() // as a vCPU's thread is; it ends with the goroutine
	t, err := floor.New(memoryMiB << 20)
	f.done <- err
	for range f.next {
		f.done <- f.one(t)
	}
	if t != nil {
		err = t.Close()
	}
	f.done <- err
}

func (f *floors) one(t *floor.Template) error {
	cpu, err := processorTime(unix.RUSAGE_THREAD)
	if err != nil {
		return err
	}
	begin := time.Now()
	if _, err := t.Fork(); err != nil {
		return err
	}
	took := time.Since(begin)
	after, err := processorTime(unix.RUSAGE_THREAD)
	f.last = effort{took, after - cpu}
	return err
}

// fork makes one, and returns what it has taken.
func (f *floors) fork() (effort, error) {
	f.next <- struct{}{}
	err := <-f.done
	return f.last, err
}

func (f *floors) Close() error {
	close(f.next)
	return <-f.done
}
