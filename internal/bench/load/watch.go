package load

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/runtime"
)

// state is what this process has at one time: server, runtime, driver and the agents' clients.
type state struct {
	at         time.Time
	live       int64 // bytes of the heap that the last collection found in use
	resident   int64 // bytes
	goroutines int64
	files      int64 // open ones
	// waiting is for how long, since the host was started, something has had to wait for a CPU.
	waiting time.Duration
}

func look() state {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/sched/goroutines:goroutines"}}
	metrics.Read(samples)
	s := state{at: time.Now(), live: int64(samples[0].Value.Uint64()), goroutines: int64(samples[1].Value.Uint64())}
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		s.files = int64(len(files)) - 1 // that of the directory itself
	}
	if pressure, err := os.ReadFile("/proc/pressure/cpu"); err == nil {
		if _, total, ok := strings.Cut(string(pressure), "total="); ok {
			total, _, _ = strings.Cut(total, "\n")
			us, _ := strconv.ParseInt(total, 10, 64)
			s.waiting = time.Duration(us) * time.Microsecond
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return s
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			s.resident = kib << 10
		}
	}
	return s
}

// watch collects samples. It is a runtime.Observer.
type watch struct {
	mu         sync.Mutex
	began      time.Time
	operations io.Writer
	memory     io.Writer
	failed     error
	until      time.Time          // when the agents begin to clear up
	beside     series             // of the operations that called the driver, before that
	closing    series             // and after
	ops        map[string]*series // of all
	driver     map[string]*series // by call
	states     []state
}

// series are the samples of one operation, in the order in which they came.
type series struct {
	own, total []time.Duration
	failed     int
}

func newWatch(operations, memory io.Writer) *watch {
	if operations == nil {
		operations = io.Discard
	}
	if memory == nil {
		memory = io.Discard
	}
	return &watch{operations: operations, memory: memory, ops: map[string]*series{}, driver: map[string]*series{}}
}

// start sets the time that samples are counted from, and that when the agents stop working.
func (w *watch) start(t time.Time, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.began, w.until = t, t.Add(d)
	w.print(w.operations, "at_ms,operation,result,total_us,own_us\n")
	w.print(w.memory, "at_ms,heap_live_bytes,resident_bytes,goroutines,files,cpu_pressure_us\n")
}

func (w *watch) print(to io.Writer, format string, args ...any) {
	if _, err := fmt.Fprintf(to, format, args...); err != nil && w.failed == nil {
		w.failed = fmt.Errorf("write samples: %w", err)
	}
}

func (w *watch) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// Operation is runtime.Observer's.
func (w *watch) Operation(o runtime.Operation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	own := o.Total - o.Elsewhere
	add(w.ops, o.Op, own, o.Total, o.Result != "ok")
	if o.Elsewhere > 0 {
		part := &w.beside
		if time.Now().After(w.until) {
			part = &w.closing
		}
		part.own = append(part.own, own)
		if o.Result != "ok" {
			part.failed++
		}
	}
	w.print(w.operations, "%d,%s,%s,%d,%d\n", time.Since(w.began).Milliseconds(), o.Op, o.Result, o.Total.Microseconds(), own.Microseconds())
}

// DriverCall is runtime.Observer's.
func (w *watch) DriverCall(c runtime.DriverCall) {
	w.mu.Lock()
	defer w.mu.Unlock()
	add(w.driver, c.Call, 0, c.Duration, c.Failed)
}

func add(to map[string]*series, name string, own, total time.Duration, failed bool) {
	s := to[name]
	if s == nil {
		s = &series{}
		to[name] = s
	}
	s.own, s.total = append(s.own, own), append(s.total, total)
	if failed {
		s.failed++
	}
}

func (w *watch) sample(s state) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.states = append(w.states, s)
	w.print(w.memory, "%d,%d,%d,%d,%d,%d\n", s.at.Sub(w.began).Milliseconds(), s.live, s.resident, s.goroutines, s.files, s.waiting.Microseconds())
}

// Report is what a run has found.
type Report struct {
	System   string        `json:"system"`
	Sessions int           `json:"sessions"`
	Tenants  int           `json:"tenants"`
	Duration time.Duration `json:"duration_ns"`
	Think    time.Duration `json:"think_ns"`
	// Calls are those of all agents over MCP; Tried, those with an ID of somebody else, which are among them.
	Calls int64 `json:"calls"`
	Tried int64 `json:"tried"`
	// Leaks are answers with another's secret, and trials that were answered otherwise than what does not exist.
	Leaks int64 `json:"leaks"`
	// Faults say what went wrong, leaks included; of too many the first.
	Faults []string `json:"faults,omitempty"`
	More   int      `json:"more_faults,omitempty"`
	// Own is the control plane's own time of those operations that called the driver, while the agents worked;
	// Closing, when all of them cleared up at once; Operations, of all operations, by name.
	Own        Times            `json:"own"`
	Closing    Times            `json:"closing"`
	Operations map[string]Times `json:"operations"`
	// Driver are the times of the driver's calls.
	Driver map[string]Times `json:"driver"`
	// CPUPressure is the share of the run's time in which something on this host had to wait for a CPU; other
	// load is in it. Where it is high, all times are those of a host that is too small.
	CPUPressure float64 `json:"cpu_pressure_ratio"`
	// Memory of the process: medians of the second quarter of the run and of its last.
	Memory []MemoryAt `json:"memory"`
	// Left is what was not taken away in the end.
	Left []string `json:"left,omitempty"`
}

// Times describes samples in milliseconds. Quantiles are nearest-rank.
type Times struct {
	N      int     `json:"n"`
	Failed int     `json:"failed,omitempty"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
	Max    float64 `json:"max_ms"`
}

// MemoryAt is a part of the run.
type MemoryAt struct {
	Part        string `json:"part"`
	HeapLiveMiB int64  `json:"heap_live_mib"`
	ResidentMiB int64  `json:"resident_mib"`
	Goroutines  int64  `json:"goroutines"`
	Files       int64  `json:"files"`
}

func (r *run) report() *Report {
	w := r.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	rep := &Report{
		System: r.Driver.System(), Sessions: r.Sessions, Tenants: r.Tenants, Duration: r.Duration, Think: r.Think,
		Calls: r.calls.Load(), Tried: r.tried.Load(), Leaks: r.leaks.Load(), Faults: r.faults, More: r.more,
		Operations: map[string]Times{}, Driver: map[string]Times{},
	}
	for op, s := range w.ops {
		rep.Operations[op] = times(s.own, s.failed)
	}
	rep.Own, rep.Closing = times(w.beside.own, w.beside.failed), times(w.closing.own, w.closing.failed)
	for call, s := range w.driver {
		rep.Driver[call] = times(s.total, s.failed)
	}
	if n := len(w.states); n >= 2 {
		first, last := w.states[0], w.states[n-1]
		rep.CPUPressure = float64(last.waiting-first.waiting) / float64(last.at.Sub(first.at))
	}
	if n := len(w.states); n >= 8 {
		rep.Memory = []MemoryAt{middle("second quarter", w.states[n/4:n/2]), middle("last quarter", w.states[n-n/4:])}
	}
	return rep
}

func times(d []time.Duration, failed int) Times {
	d = slices.Sorted(slices.Values(d))
	at := func(percent int) float64 { return ms(d[max(0, (len(d)*percent+99)/100-1)]) }
	if len(d) == 0 {
		return Times{Failed: failed}
	}
	return Times{N: len(d), Failed: failed, P50: at(50), P99: at(99), Max: ms(d[len(d)-1])}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func middle(part string, states []state) MemoryAt {
	median := func(of func(state) int64) int64 {
		var v []int64
		for _, s := range states {
			v = append(v, of(s))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return MemoryAt{
		Part:        part,
		HeapLiveMiB: median(func(s state) int64 { return s.live }) >> 20,
		ResidentMiB: median(func(s state) int64 { return s.resident }) >> 20,
		Goroutines:  median(func(s state) int64 { return s.goroutines }),
		Files:       median(func(s state) int64 { return s.files }),
	}
}

// Limits are what a report is held to.
type Limits struct {
	// Own bounds the 99th percentile of the control plane's own time; 0 is no bound.
	Own time.Duration
	// Growth bounds that of the heap in use, from the second quarter to the last, in bytes; 0 is no bound.
	Growth int64
}

// Check tells in what a report does not hold.
func (rep *Report) Check(l Limits) error {
	var errs []error
	for _, f := range rep.Faults {
		errs = append(errs, errors.New(f))
	}
	if rep.More > 0 {
		errs = append(errs, fmt.Errorf("and %d more faults", rep.More))
	}
	if rep.Leaks > 0 {
		errs = append(errs, fmt.Errorf("%d leaks", rep.Leaks))
	}
	if rep.Tried == 0 {
		errs = append(errs, errors.New("nobody has tried the IDs of others"))
	}
	for _, left := range rep.Left {
		errs = append(errs, errors.New("left: "+left))
	}
	if l.Own > 0 && rep.Own.P99 > ms(l.Own) {
		errs = append(errs, fmt.Errorf("the control plane's own time has a p99 of %.3f ms; at most %v", rep.Own.P99, l.Own))
	}
	if m := rep.Memory; l.Growth > 0 && len(m) == 2 && m[1].HeapLiveMiB-m[0].HeapLiveMiB > l.Growth>>20 {
		errs = append(errs, fmt.Errorf("the heap in use has grown from %d to %d MiB", m[0].HeapLiveMiB, m[1].HeapLiveMiB))
	}
	return errors.Join(errs...)
}
