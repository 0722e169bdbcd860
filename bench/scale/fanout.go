package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// herd is an original and copies of it.
type herd interface {
	// grow makes n copies more, and returns when each has answered, with how long each took to.
	grow(ctx context.Context, n int) ([]time.Duration, error)
	// pids are the copies' processes, one for each copy, and ram the memory of each guest in bytes.
	pids() []int
	ram() int64
	// shrink closes all copies.
	shrink() error
	// Close closes the original too.
	Close() error
}

// quiet is how long copies that have nothing to do are left alone before their memory is read: longer than it takes them to
// give back what they do not need.
const quiet = 8 * time.Second

// fanout makes more and more copies. Memory is the slope over their number: the difference between two numbers of copies,
// so that what they share is not counted, and by least squares over all.
func (b *bench) fanout(ctx context.Context, steps []int, make func(context.Context) (herd, error)) (err error) {
	h, err := make(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if _, err := h.grow(ctx, 1); err != nil { // what the first one has to find is not there yet
		return err
	}
	if err := h.shrink(); err != nil {
		return err
	}
	last, err := b.settled(ctx, h)
	if err != nil {
		return err
	}
	there := 0
	for _, n := range steps {
		begin := time.Now()
		took, err := h.grow(ctx, n-there)
		if err != nil {
			return fmt.Errorf("with %d copies: %w", n, err)
		}
		all := time.Since(begin)
		b.record("all", n, 0, ms(all), "ms")
		for i, t := range took {
			b.record("one", n, i, ms(t), "ms")
		}
		now, err := b.settled(ctx, h)
		if err != nil {
			return err
		}
		for name, v := range now {
			b.record(name, n, 0, float64(v), "bytes")
		}
		more := n - there
		processes := func(m memory) int64 { return m.total() - m.kernel() }
		b.print("Fanout", n, all.Nanoseconds(), "ns/op", fmt.Sprintf("%.2f", ms(all)/float64(more)), "ms/copy",
			quantile(took, 0.5), "p50-ms", quantile(took, 0.99), "p99-ms",
			(now.total()-last.total())>>10/int64(more), "KiB/copy",
			(processes(now)-processes(last))>>10/int64(more), "KiB-processes/copy", -(now["available"]-last["available"])>>10/int64(more), "KiB-unavailable/copy")
		b.parts(n, more, last, now)
		last, there = now, n
	}
	return nil
}

// parts tells what a copy consists of, the most first.
func (b *bench) parts(n, more int, last, now memory) {
	if more < 10 {
		return
	}
	per := func(name string) int64 { return (now[name] - last[name]) / int64(more) }
	names := slices.SortedFunc(maps.Keys(now), func(x, y string) int { return cmp.Compare(per(y), per(x)) })
	for _, name := range names {
		if v := per(name); v>>10 != 0 && name != "available" {
			fmt.Printf("# n=%d %8.1f KiB %s\n", n, float64(v)/1024, name)
		}
	}
}

func (b *bench) settled(ctx context.Context, h herd) (memory, error) {
	select {
	case <-time.After(quiet):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	runtime.GC()
	debug.FreeOSMemory()
	pids := h.pids()
	slices.Sort(pids)
	return readMemory(slices.Compact(pids), h.ram(), b.perCell)
}

// several does something n times, a few at once, and returns how long each took, or the first error.
func several(ctx context.Context, n int, do func(context.Context) error) ([]time.Duration, error) {
	var (
		tasks  sync.WaitGroup
		mu     sync.Mutex
		took   []time.Duration
		first  error
		places = make(chan struct{}, 2*runtime.NumCPU())
	)
	for range n {
		places <- struct{}{}
		tasks.Go(func() {
			defer func() { <-places }()
			mu.Lock()
			over := first != nil
			mu.Unlock()
			if over {
				return
			}
			begin := time.Now()
			err := cmp.Or(ctx.Err(), do(ctx))
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(begin))
			first = cmp.Or(first, err)
		})
	}
	tasks.Wait()
	return took, first
}

// temporary is a file with a content, which is gone when it is closed.
func temporary(content []byte) (*os.File, error) {
	f, err := os.CreateTemp("", "scale")
	if err != nil {
		return nil, err
	}
	_, err = f.Write(content)
	return f, errors.Join(err, os.Remove(f.Name()))
}
