package report

import "github.com/aethervm/aether/vms"

// axisText is what the page says about an axis. prefix is how its metrics and series begin.
type axisText struct {
	short, title, text, prefix string
}

var axisTexts = map[vms.Axis]axisText{
	vms.StartLatency: {
		"Start", "Start latency",
		"How long an agent waits for a fresh sandbox. The clock starts at the call and stops when the exit status of a program that ran inside has arrived. Less is better.",
		"start.",
	},
	vms.Density: {
		"Density", "Density",
		"What one more idle sandbox costs the host in memory: the slope over their number, after each has run Python once. Less is better.",
		"density.",
	},
	vms.Isolation: {
		"Isolation", "Isolation",
		"What guest code sees and reaches, probed from inside, and what confines the host processes that run it, probed from outside. No answer is unknown, and unknown is not good.",
		"isolation.",
	},
	vms.Snapshotting: {
		"Snapshot", "Snapshotting",
		"What survives a snapshot, how fast it is made and restored, and whether ten copies of one snapshot are ten different sandboxes.",
		"snapshot.",
	},
	vms.AgentControl: {
		"Agent control", "Agent control",
		"A scripted agent does one fixed list of jobs through each system's own control plane: which jobs can be done, what they cost in calls, bytes and tokens, and whether errors can be read by a program. Another one works over MCP.",
		"control.",
	},
}

// seriesText names a series of raw samples. Series without one are shown by their own name.
type seriesText struct{ title, caption string }

var seriesTexts = map[string]seriesText{
	"start.cold":                {"Cold start", "Create to the exit status of the first program."},
	"start.python":              {"Cold start of Python", "Create to the output of a Python one-liner."},
	"start.exec":                {"Exec in a running sandbox", "One program in a sandbox that already runs."},
	"start.burst8":              {"Eight at once", "Each of eight sandboxes created at the same moment, to its first exit status."},
	"start.close":               {"Close", "Close of a sandbox that has run something, until everything is freed."},
	"start.stream50":            {"Bulk data", "50 MiB through the standard input of cat and back."},
	"snapshot.save":             {"Save", "Snapshot of a sandbox in which Python runs."},
	"snapshot.restore":          {"Restore", "Restore to the exit status of the first program."},
	"snapshot.fork10.total":     {"Ten from one snapshot", "Ten sandboxes from one snapshot at once, until all have answered."},
	"snapshot.live.fork1":       {"A copy of a running sandbox", "Fork of one to the exit status of its first program."},
	"snapshot.live.fork10":      {"Ten copies of a running sandbox", "Fork of ten at once, until all have answered."},
	"snapshot.template.fork1":   {"A copy of a template", "One copy to the exit status of its first program."},
	"snapshot.template.fork10":  {"Ten copies of a template", "Ten copies at once, until all have answered."},
	"snapshot.fork.clock_error": {"Clock error of a copy", "How far the wall clock of each of ten copies was off at its first exec."},
	"density.idle":              {"Memory of one idle sandbox", "The slope, once a round."},
}

// metricLabels are the metrics of docs/METRICS.md in a few words, in the order in which they are
// shown. Metrics that are not here are shown after them by their own name.
var metricLabels = []struct{ name, label string }{
	{"start.cold.p50_ms", "Cold start, median"},
	{"start.cold.p95_ms", "Cold start, 95th percentile"},
	{"start.cold.p99_ms", "Cold start, 99th percentile"},
	{"start.python.p50_ms", "Cold start of Python, median"},
	{"start.exec.p50_ms", "Exec, median"},
	{"start.exec.p99_ms", "Exec, 99th percentile"},
	{"start.burst8.p50_ms", "Eight at once, median"},
	{"start.burst8.p99_ms", "Eight at once, 99th percentile"},
	{"start.close.p50_ms", "Close, median"},
	{"start.stream50.p50_ms", "50 MiB in and back, median"},
	{"density.idle_mib", "Each idle sandbox"},
	{"density.vmm_mib", "Each, beyond its guest's RAM"},
	{"density.fixed_mib", "Daemons, with no sandbox"},
	{"density.sandboxes_count", "Sandboxes that the slope is taken over"},
	{"isolation.separate_kernel_ratio", "Kernel of its own"},
	{"isolation.hardware_boundary_ratio", "Hardware boundary"},
	{"isolation.inside_ratio", "Better answers inside"},
	{"isolation.outside_ratio", "Better answers outside"},
	{"isolation.bombs_ratio", "Bombs that hurt nobody else"},
	{"isolation.syscalls_count", "Host system calls in reach"},
	{"isolation.unknown_count", "Probes without an answer"},
	{"snapshot.memory_survives_ratio", "Memory survives"},
	{"snapshot.files_survive_ratio", "Files survive"},
	{"snapshot.pause_ratio", "Can be paused"},
	{"snapshot.save.p50_ms", "Save, median"},
	{"snapshot.restore.p50_ms", "Restore, median"},
	{"snapshot.disk_mib", "Size on disk"},
	{"snapshot.fork10.total_ms", "Ten from one snapshot, median"},
	{"snapshot.fork.unique_ratio", "Copies with randomness of their own"},
	{"snapshot.fork.clock_ratio", "Copies with the right time"},
	{"snapshot.fork.prng_ratio", "Running programs with randomness of their own"},
	{"snapshot.live.first.p50_ms", "First copy of a running sandbox, median"},
	{"snapshot.live.fork1.p50_ms", "Later copy of a running sandbox, median"},
	{"snapshot.live.fork10.p50_ms", "Ten copies of a running sandbox, median"},
	{"snapshot.template.create.p50_ms", "Template made, median"},
	{"snapshot.template.disk_mib", "Template, size on disk"},
	{"snapshot.template.fork1.p50_ms", "Copy of a template, median"},
	{"snapshot.template.fork10.p50_ms", "Ten copies of a template, median"},
	{"control.jobs_ratio", "Jobs done, share"},
	{"control.jobs_count", "Jobs done"},
	{"control.calls_count", "Calls for the core jobs"},
	{"control.wire_bytes", "Bytes for the core jobs"},
	{"control.tokens_count", "Tokens for the core jobs"},
	{"control.errors_ratio", "Errors that a program can read"},
	{"control.agent_jobs_count", "Jobs done over MCP"},
	{"control.agent_jobs_ratio", "Jobs done over MCP, share"},
}
