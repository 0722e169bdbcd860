package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

const (
	mib = 1 << 20
	// After a change the host's memory is read until two readings in a row, settleEvery apart,
	// differ by less than settleWithin, but for settleLimit at most.
	settleEvery  = 500 * time.Millisecond
	settleLimit  = 10 * time.Second
	settleWithin = mib / 4
)

// densitySteps are the numbers of idle sandboxes at which memory is read.
func densitySteps() []int { return []int{0, 1, 2, 4, 8} }

// kernelFields of /proc/meminfo are memory that the kernel has for itself. KernelStack is not among
// them: stacks are allocated with vmalloc (CONFIG_VMAP_STACK) and counted in VmallocUsed already.
// SecPageTables are the second-level page tables of KVM guests.
func kernelFields() []string {
	return []string{"Slab", "PageTables", "SecPageTables", "Percpu", "VmallocUsed"}
}

// reading is the host's memory at one moment, in bytes.
type reading struct {
	pss int64 // of all processes that serve the system
	// shmem is the part of pss that is shared memory; hostShmem, all of the host's. What is in the
	// second and not in the first no process has mapped: guest memory in a memfd, files in a tmpfs.
	shmem, hostShmem int64
	// guest is the part of pss that is RAM of guests; guests, how many processes had some that could be
	// told apart.
	guest, guests int64
	kernel        int64
	available     int64
}

// stepDensity adds idle sandboxes and takes the slope of the host's memory over their number.
func stepDensity(ctx context.Context, s *session) error {
	var xs, ys, own []float64
	var base reading
	var open []sandbox.Sandbox
	var stop error
	for _, n := range densitySteps() {
		more, err := s.createIdle(ctx, n-len(open))
		open = append(open, more...)
		if err != nil {
			stop = fmt.Errorf("with %d sandboxes: %w", n, err)
			break
		}
		r, err := s.settle(ctx, open)
		if err != nil {
			return err
		}
		if n == 0 {
			base = r
			s.value("density.fixed", float64(r.pss)/mib, "mib")
		}
		total := s.recordReading(n, r, base)
		xs, ys = append(xs, float64(n)), append(ys, total)
		if r.guests == int64(n) {
			own = append(own, total-float64(r.guest)/mib)
		}
	}
	if len(xs) < 3 {
		return stop
	}
	s.value("density.idle", slope(xs, ys), "mib")
	if len(own) == len(xs) { // every sandbox is a VM
		s.value("density.vmm", slope(xs, own), "mib")
	}
	s.value("density.sandboxes", xs[len(xs)-1], "count")
	return stop
}

// isCurve tells that a series is measured at several numbers of sandboxes, which Sample.Index is:
// its samples are points of a curve, and their quantiles mean nothing.
func isCurve(series string) bool {
	switch series {
	case "density.pss", "density.kernel", "density.unmapped", "density.unavailable", "density.total":
		return true
	}
	return false
}

// recordReading records a reading relative to base and returns the total in MiB.
func (s *session) recordReading(n int, r, base reading) float64 {
	point := func(name string, bytes int64) float64 {
		v := float64(bytes) / mib
		s.record(Sample{Name: name, Index: n, Value: v, Unit: "mib"})
		return v
	}
	pss := point("density.pss", r.pss)
	kernel := point("density.kernel", r.kernel-base.kernel)
	unmapped := point("density.unmapped", max(0, (r.hostShmem-base.hostShmem)-(r.shmem-base.shmem)))
	// A check on the sum by another way, not part of it: it also holds page cache, and whatever
	// else goes on on the host.
	point("density.unavailable", base.available-r.available)
	total := pss + kernel + unmapped
	s.record(Sample{Name: "density.total", Index: n, Value: total, Unit: "mib"})
	return total
}

// createIdle starts n sandboxes, four at a time, and makes each run Python once.
func (s *session) createIdle(ctx context.Context, n int) ([]sandbox.Sandbox, error) {
	made := make([]sandbox.Sandbox, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i := range n {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			sb, err := s.create(ctx)
			if err == nil {
				_, err = run(ctx, sb, "python3", "-c", "pass")
			}
			made[i], errs[i] = sb, err
		})
	}
	wg.Wait()
	return made, errors.Join(errs...)
}

// settle reads memory until it no longer moves.
func (s *session) settle(ctx context.Context, open []sandbox.Sandbox) (reading, error) {
	last, err := s.read(ctx, open)
	for waited := time.Duration(0); err == nil && waited < settleLimit; waited += settleEvery {
		if err := sleep(ctx, settleEvery); err != nil {
			return last, err
		}
		var r reading
		if r, err = s.read(ctx, open); err != nil {
			break
		}
		still := math.Abs(float64(r.pss-last.pss)) < settleWithin && math.Abs(float64(r.hostShmem-last.hostShmem)) < settleWithin
		last = r
		if still {
			break
		}
	}
	return last, err
}

// read takes one reading.
func (s *session) read(ctx context.Context, open []sandbox.Sandbox) (reading, error) {
	processes, err := s.processes(ctx, open)
	if err != nil {
		return reading{}, err
	}
	var r reading
	for _, p := range processes {
		m, err := s.memory.process(p)
		if err != nil {
			return r, err
		}
		r.pss += m.pss
		r.shmem += m.shmem
		if m.known {
			r.guest += m.guest
			r.guests++
		}
	}
	info, err := s.memory.meminfo()
	if err != nil {
		return r, err
	}
	for _, field := range kernelFields() {
		r.kernel += info[field]
	}
	r.hostShmem, r.available = info["Shmem"], info["MemAvailable"]
	return r, nil
}

// processes are the daemons of the system and the processes that serve the sandboxes, each once.
func (s *session) processes(ctx context.Context, open []sandbox.Sandbox) (map[int]sandbox.HostProcess, error) {
	pids := map[int]sandbox.HostProcess{}
	add := func(processes []sandbox.HostProcess, err error) error {
		for _, p := range processes {
			pids[p.PID] = p
		}
		return err
	}
	if d, ok := s.driver.(sandbox.DaemonInspector); ok {
		if err := add(d.Daemons(ctx)); err != nil {
			return nil, fmt.Errorf("find daemons: %w", err)
		}
	}
	for _, sb := range open {
		inspector, ok := sb.(sandbox.Inspector)
		if !ok {
			return nil, lacks("the system does not tell which host processes serve a sandbox")
		}
		if err := add(inspector.HostProcesses(ctx)); err != nil {
			return nil, fmt.Errorf("find host processes of a sandbox: %w", err)
		}
	}
	return pids, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
