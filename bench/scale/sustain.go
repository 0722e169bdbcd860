package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// sustain makes copies, has each answer and closes it, one after the other, as many as the last of steps says, and reports
// each tenth of them.
func (b *bench) sustain(ctx context.Context, steps []int, make func(context.Context) (herd, error)) (err error) {
	h, err := make(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	n := steps[len(steps)-1]
	part := max(n/10, 1)
	var first time.Duration
	for done := 0; done < n; done += part {
		begin := time.Now()
		var all []time.Duration
		for i := range part {
			begin := time.Now()
			if _, err := h.grow(ctx, 1); err != nil {
				return fmt.Errorf("copy %d: %w", done+i, err)
			}
			if err := h.shrink(); err != nil {
				return fmt.Errorf("copy %d: %w", done+i, err)
			}
			all = append(all, time.Since(begin))
			b.record("one", n, done+i, ms(all[i]), "ms")
		}
		took := time.Since(begin)
		if done == 0 {
			first = took
		}
		has, err := holdings()
		if err != nil {
			return err
		}
		for name, v := range has {
			b.record(name, n, done+part, float64(v), "")
		}
		b.print("Sustain", done+part, took.Nanoseconds()/int64(part), "ns/op", quantile(all, 0.5), "p50-ms", fmt.Sprintf("%.3f", float64(first)/float64(took)), "of-first-rate",
			has["files"], "files", has["mappings"], "mappings", has["threads"], "threads", has["rss"]>>10, "KiB-rss", has["slab"]>>10, "KiB-slab", has["groups"], "cgroups")
	}
	return nil
}

// holdings is what this process has, and of the host what grows if something is not given back.
func holdings() (memory, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	self, err := fields("/proc/self/smaps_rollup")
	if err != nil {
		return nil, err
	}
	info, err := fields("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	return memory{
		"files": int64(open("/proc/self/fd")), "threads": int64(open("/proc/self/task")), "mappings": int64(bytes.Count(maps, []byte("\n"))),
		"groups": int64(open("/sys/fs/cgroup")), "rss": self["Rss"], "slab": info["Slab"], "unreclaimable": info["SUnreclaim"],
	}, nil
}
