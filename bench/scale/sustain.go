package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// sustain makes copies, has each answer and closes it, one after the other, as many as the last of steps says, and reports
// each tenth of them. Before each it makes and frees one at the floor: other work of the host, which comes and goes, is in
// both.
func (b *bench) sustain(ctx context.Context, steps []int, make func(context.Context) (herd, error)) (err error) {
	h, err := make(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	floors, err := newFloors(b.memoryMiB)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floors.Close()) }()
	n := steps[len(steps)-1]
	size := max(n/10, 1)
	var first, last sustained
	for done := 0; done < n; done += size {
		last = sustained{}
		for i := done; i < done+size; i++ {
			floor, err := floors.fork()
			if err != nil {
				return err
			}
			copied, err := measured(func() error {
				_, err := h.grow(ctx, 1)
				return errors.Join(err, h.shrink())
			})
			if err != nil {
				return fmt.Errorf("copy %d: %w", i, err)
			}
			last.add(copied, floor)
			for name, v := range map[string]time.Duration{"one": copied.took, "one-cpu": copied.cpu, "floor": floor.took, "floor-cpu": floor.cpu} {
				b.record(name, n, i, ms(v), "ms")
			}
		}
		if done == 0 {
			first = last
		}
		has, err := holdings()
		if err != nil {
			return err
		}
		for name, v := range has {
			b.record(name, n, done+size, float64(v), "")
		}
		b.print("Sustain", done+size, append(last.figures(),
			has["files"], "files", has["mappings"], "mappings", has["threads"], "threads", has["rss"]>>10, "KiB-rss",
			has["slab"]>>10, "KiB-slab", has["groups"], "cgroups")...)
	}
	f, l := first.medians(), last.medians()
	b.print("SustainLastToFirst", n, quotient(l.ratio, f.ratio), "of-time/floor", quotient(l.cpuRatio, f.cpuRatio), "of-cpu/floor",
		quotient(l.cpu, f.cpu), "of-cpu", quotient(l.took, f.took), "of-time")
	return nil
}

// sustained is what some copies, and as many at the floor, have taken.
type sustained struct{ copies, floors []effort }

func (s *sustained) add(copied, floor effort) {
	s.copies, s.floors = append(s.copies, copied), append(s.floors, floor)
}

// medians are those of many copies: in milliseconds, and of what each takes to what the one at the floor before it did.
type medians struct{ took, floor, ratio, cpu, cpuRatio float64 }

func (s *sustained) medians() medians {
	median := func(of func(i int) float64) float64 {
		all := make([]float64, len(s.copies))
		for i := range all {
			all[i] = of(i)
		}
		slices.Sort(all)
		return all[(len(all)-1)/2]
	}
	return medians{
		took:     median(func(i int) float64 { return ms(s.copies[i].took) }),
		floor:    median(func(i int) float64 { return ms(s.floors[i].took) }),
		ratio:    median(func(i int) float64 { return float64(s.copies[i].took) / float64(s.floors[i].took) }),
		cpu:      median(func(i int) float64 { return ms(s.copies[i].cpu) }),
		cpuRatio: median(func(i int) float64 { return float64(s.copies[i].cpu) / float64(max(1, s.floors[i].cpu)) }),
	}
}

func (s *sustained) figures() []any {
	m := s.medians()
	var all time.Duration
	for _, e := range s.copies {
		all += e.took
	}
	return []any{
		all.Nanoseconds() / int64(len(s.copies)), "ns/op", m.took, "p50-ms", m.floor, "floor-p50-ms", fmt.Sprintf("%.3f", m.ratio), "p50-of-floor",
		m.cpu, "cpu-p50-ms", fmt.Sprintf("%.3f", m.cpuRatio), "cpu-p50-of-floor",
	}
}

func quotient(a, b float64) string { return fmt.Sprintf("%.3f", a/b) }

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
