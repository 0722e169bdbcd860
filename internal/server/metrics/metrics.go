// Package metrics shows the runtime's figures to Prometheus. They are those of the whole host: no label
// names a tenant, a session or a sandbox, so that their number does not grow with use.
package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/aethervm/aether/internal/runtime"
)

const namespace = "aether"

// operations counts what the runtime tells as it happens. It is a runtime.Observer.
type operations struct {
	ended    *prometheus.CounterVec
	total    *prometheus.HistogramVec
	overhead *prometheus.HistogramVec
	calls    *prometheus.HistogramVec
	failures *prometheus.CounterVec
	refused  *prometheus.CounterVec
}

func newOperations() *operations {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
	}
	// Of what lasts as long as a program does, and of what takes the runtime's own code.
	long := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800}
	short := []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1}
	return &operations{
		ended: counter("operations_total", "Operations that have ended, by kind and result: ok, or the code of the error.", "op", "result"),
		total: histogram("operation_duration_seconds", "Time of an operation, with the programs that it ran.", long, "op"),
		overhead: histogram("operation_overhead_seconds",
			"Time of an operation in which no call of a driver was going on and no program was waited for.", short, "op"),
		calls: histogram("driver_call_duration_seconds",
			"Time of a call of a system's driver; that of exec has the time of the program in it.", long, "system", "call"),
		failures: counter("driver_call_failures_total", "Calls of a system's driver that returned an error.", "system", "call"),
		refused:  counter("budget_refusals_total", "Operations that a budget refused or ended.", "of", "resource"),
	}
}

func (o *operations) collectors() []prometheus.Collector {
	return []prometheus.Collector{o.ended, o.total, o.overhead, o.calls, o.failures, o.refused}
}

// Operation is runtime.Observer's.
func (o *operations) Operation(op runtime.Operation) {
	o.ended.WithLabelValues(op.Op, op.Result).Inc()
	o.total.WithLabelValues(op.Op).Observe(op.Total.Seconds())
	o.overhead.WithLabelValues(op.Op).Observe((op.Total - op.Elsewhere).Seconds())
	if no := op.Refused; no != nil {
		o.refused.WithLabelValues(no.Of, string(no.Resource)).Inc()
	}
}

// DriverCall is runtime.Observer's.
func (o *operations) DriverCall(c runtime.DriverCall) {
	o.calls.WithLabelValues(c.System, c.Call).Observe(c.Duration.Seconds())
	if c.Failed {
		o.failures.WithLabelValues(c.System, c.Call).Inc()
	}
}

// state reads what the runtime has when it is asked.
type state struct {
	rt *runtime.Runtime

	sandboxes, memory, started, draining, tenants, sessions, processes, snapshots, output, audit *prometheus.Desc
	ready, readyMemory, asked, warmed                                                            *prometheus.Desc
}

func newState(rt *runtime.Runtime) *state {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
	}
	return &state{
		rt:        rt,
		sandboxes: desc("sandboxes", "Sandboxes that are alive.", "system", "state"),
		memory:    desc("sandbox_memory_limit_bytes", "Memory that the sandboxes alive may use.", "system", "state"),
		started:   desc("start_time_seconds", "When the runtime was opened, in seconds since 1970."),
		draining:  desc("draining", "1 while the runtime takes no new operations."),
		tenants:   desc("tenants", "Tenants."),
		sessions:  desc("sessions", "Sessions that are open."),
		processes: desc("processes", "Background processes that run."),
		snapshots: desc("snapshots", "Snapshots that are kept."),
		output:    desc("output_bytes_total", "What programs have written to their outputs, kept or not."),
		audit:     desc("audit_entries_total", "Entries of the audit log, also those of former processes."),

		ready:       desc("pool_ready", "Sandboxes that wait in the pool."),
		readyMemory: desc("pool_memory_limit_bytes", "Memory that the sandboxes in the pool may use."),
		asked:       desc("pool_requests_total", "Requests that could have been given a sandbox of the pool: hit, or miss.", "outcome"),
		warmed:      desc("pool_sandboxes_total", "Sandboxes made for the pool: made, failed, or dropped since nobody came.", "outcome"),
	}
}

// Describe is prometheus.Collector's.
func (s *state) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.sandboxes, s.memory, s.started, s.draining, s.tenants, s.sessions, s.processes, s.snapshots, s.output, s.audit,
		s.ready, s.readyMemory, s.asked, s.warmed} {
		to <- d
	}
}

// Collect is prometheus.Collector's.
func (s *state) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	st, totals := s.rt.Status(), s.rt.Totals()
	for _, n := range totals.Sandboxes {
		gauge(s.sandboxes, float64(n.Count), n.System, string(n.State))
		gauge(s.memory, float64(n.MemoryMiB)*(1<<20), n.System, string(n.State))
	}
	gauge(s.started, float64(st.Started.UnixMilli())/1000)
	draining := 0.0
	if st.Draining {
		draining = 1
	}
	gauge(s.draining, draining)
	gauge(s.tenants, float64(st.Tenants))
	gauge(s.sessions, float64(st.Sessions))
	gauge(s.processes, float64(st.Processes))
	gauge(s.snapshots, float64(st.Snapshots))
	counter(s.output, totals.OutputBytes)
	counter(s.audit, totals.AuditEntries)

	pool := s.rt.Pool()
	gauge(s.ready, float64(pool.Ready))
	gauge(s.readyMemory, float64(pool.MemoryMiB)*(1<<20))
	counter(s.asked, pool.Hits, "hit")
	counter(s.asked, pool.Misses, "miss")
	counter(s.warmed, pool.Made, "made")
	counter(s.warmed, pool.Failed, "failed")
	counter(s.warmed, pool.Dropped, "dropped")
}

// registry has the runtime's figures and those of this process.
func registry(rt *runtime.Runtime, version string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: "build_info", Help: "1; the version is the label."}, []string{"version"})
	build.WithLabelValues(version).Set(1)
	ops := newOperations()
	reg.MustRegister(build, newState(rt), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reg.MustRegister(ops.collectors()...)
	rt.Observe(ops)
	return reg
}
