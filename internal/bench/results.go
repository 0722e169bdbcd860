// Package bench is the judge's measuring: it drives every system that this host has through the
// contract of package sandbox, takes raw samples on the five axes, and keeps them in a results
// directory from which everything else (metrics, scores, tables, the report) is computed.
//
// [Run] fills a directory, [Load] reads one, [Diff] compares two. What each metric means is in
// docs/METRICS.md.
package bench

import (
	"encoding/json"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// Schema is the version of the results directory's format. A directory of another version is
// refused.
const Schema = 1

// Axis is one of the five axes that systems are judged on.
type Axis string

// The axes, by the names that they have everywhere.
const (
	AxisStart     Axis = "start-latency"
	AxisDensity   Axis = "density"
	AxisIsolation Axis = "isolation"
	AxisSnapshot  Axis = "snapshotting"
	AxisControl   Axis = "agent-control"
)

// Axes returns all axes in their fixed order.
func Axes() []Axis {
	return []Axis{AxisStart, AxisDensity, AxisIsolation, AxisSnapshot, AxisControl}
}

// Results is what a results directory holds. The fields with JSON names are those of summary.json.
type Results struct {
	Schema        int    `json:"schema"`
	AetherVersion string `json:"aether_version"`
	RubricVersion string `json:"rubric_version"`
	// Started is when the directory was begun, Finished when its last step was done.
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished,omitzero"`
	// Complete tells that every step that was planned has been done or given up. A directory that
	// is not complete is taken up again by running the same bench with it.
	Complete bool `json:"complete"`
	// Runs is how many rounds were asked for, Axes what was measured.
	Runs int    `json:"runs"`
	Axes []Axis `json:"axes"`
	// Spec is what every sandbox was created from, but for its image's paths on the host.
	Spec SpecUsed `json:"spec"`
	Host Host     `json:"host"`
	// Systems by canonical name, absent ones included.
	Systems map[string]*System `json:"systems"`

	// Dir is where the results were read from.
	Dir string `json:"-"`
	// Samples are all raw samples in the order in which they were taken, including those of steps
	// that were interrupted (see [Sample.Interrupted]).
	Samples []Sample `json:"-"`
	// Probes holds, by system, the isolation axis' report: a [ProbeReport].
	Probes map[string]json.RawMessage `json:"-"`
	// Jobs holds, by system, the agent-control axis' job list with what came of each.
	Jobs map[string]*JobReport `json:"-"`
	// Agent holds, by system, what the agent got done over MCP.
	Agent map[string]*AgentReport `json:"-"`
}

// System is what was found about one system.
type System struct {
	Available bool `json:"available"`
	// Reason says why the system was not measured, or not to the end; Remedy what can be done.
	Reason string `json:"reason,omitempty"`
	Remedy string `json:"remedy,omitempty"`
	// Version and Accelerator are as the driver's Probe gave them.
	Version     string `json:"version,omitempty"`
	Accelerator string `json:"accelerator,omitempty"`
	// Notes are limits of the system on this host, and what to know about its figures: failed
	// samples, steps given up, abilities that it has not.
	Notes []string `json:"notes,omitempty"`
	// Axes holds the scores, 0 to 1, that the rubric computes from Metrics. An axis that was not
	// measured is absent.
	Axes map[Axis]float64 `json:"axes,omitempty"`
	// Metrics by name; see docs/METRICS.md. One that could not be had is absent.
	Metrics map[string]float64 `json:"metrics,omitempty"`
	// Stats describes, by series name, the samples that metrics were computed from; series that are
	// taken at several numbers of sandboxes (density.total) are not in it.
	Stats map[string]Stat `json:"stats,omitempty"`
}

// SpecUsed is the part of sandbox.Spec that is recorded and that must be the same for a bench to
// be taken up again.
type SpecUsed struct {
	ImageDigest string          `json:"image_digest"`
	VCPUs       int             `json:"vcpus"`
	MemoryMiB   int             `json:"memory_mib"`
	Processes   int             `json:"processes"`
	Network     sandbox.Network `json:"network"`
}

// Host is the machine that was measured on. Two directories with different hosts cannot be mixed.
type Host struct {
	CPU       string `json:"cpu"`
	CPUs      int    `json:"cpus"` // logical CPUs
	MemoryMiB int64  `json:"memory_mib"`
	Kernel    string `json:"kernel"`
	Arch      string `json:"arch"`
	OS        string `json:"os,omitempty"` // PRETTY_NAME of os-release
	// BootID changes with every boot of the host.
	BootID string `json:"boot_id"`
	// Facts is whatever else the caller knows (cgroup version, /dev/kvm and whether it is real).
	Facts map[string]string `json:"facts,omitempty"`
}

// Sample is one line of samples.jsonl: one raw measurement, one failure, or the mark of a finished
// step (see [Sample.Kind]).
type Sample struct {
	// Time is when the sample was complete.
	Time time.Time `json:"time"`
	// Round counts from 0. Step is the measuring step that took the sample, Attempt how often that
	// step had been begun before in this round.
	Round   int    `json:"round"`
	System  string `json:"system"`
	Step    string `json:"step"`
	Attempt int    `json:"attempt,omitempty"`
	Kind    Kind   `json:"kind,omitempty"`
	// Name is the series that the value belongs to, for example "start.cold_ms"; Index tells apart
	// values of one series in one step: the child, the number of idle sandboxes.
	Name  string  `json:"name,omitempty"`
	Index int     `json:"index,omitempty"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"` // "ms", "mib", "count", "bytes", "ratio"
	// Note explains a value ("restored from files only"). Error is set for KindFailure.
	Note  string `json:"note,omitempty"`
	Error string `json:"error,omitempty"`
	// Interrupted marks samples of an attempt that was cut off before its end, which is known from
	// its missing KindDone. The step is then done again as a whole; what the cut-off attempt had
	// measured is kept but not counted. Set by Load, not stored.
	Interrupted bool `json:"-"`
}

// Kind of a line in samples.jsonl.
type Kind string

const (
	// KindValue is a measured value.
	KindValue Kind = ""
	// KindFailure says that the step failed, and how.
	KindFailure Kind = "failure"
	// KindDone marks the end of a step: what it has measured is whole, or it has failed for good.
	KindDone Kind = "done"
	// KindDropped says that a step, or with Step empty the whole system, is not tried again.
	KindDropped Kind = "dropped"
)

// Stat describes a series of samples. Quantiles are nearest-rank (gonum's stat.Empirical): each is
// a value that was really measured, and P99 of fewer than 100 samples is their maximum.
type Stat struct {
	Unit string `json:"unit"`
	N    int    `json:"n"`
	// Failed counts the runs of the step that gave no value.
	Failed int     `json:"failed,omitempty"`
	Min    float64 `json:"min"`
	P50    float64 `json:"p50"`
	P95    float64 `json:"p95"`
	P99    float64 `json:"p99"`
	Max    float64 `json:"max"`
	Mean   float64 `json:"mean"`
	// P50Low and P50High bound the median with 95% confidence (percentile bootstrap, 2,000
	// resamples, fixed seed). With fewer than 3 samples they are Min and Max.
	P50Low  float64 `json:"p50_low"`
	P50High float64 `json:"p50_high"`
}

// JobReport is jobs/<system>.json: what a scripted agent got done on one system.
type JobReport struct {
	System string `json:"system"`
	// Jobs in the order of the list; every job of the list is there.
	Jobs []JobResult `json:"jobs"`
	// Errors are the errors that were provoked.
	Errors []ProvokedError `json:"errors"`
	// Cost is the sum over the core jobs, which every system can do. It is nil if one of them
	// failed: a system must not be cheaper by failing.
	Cost *Cost `json:"cost,omitempty"`
}

// AgentReport is agent/<system>.json: what the scripted agent of package agentjobs got done over MCP. The surface is
// the same for all systems, so what differs is theirs.
type AgentReport struct {
	System string `json:"system"`
	// Jobs in the order of the list. Their Needs is "mcp", and their Cost that of the calls of tools.
	Jobs []JobResult `json:"jobs"`
}

// JobResult is what came of one job.
type JobResult struct {
	Name string `json:"name"`
	// Needs says what the job takes: "core" for what every system can do, "mcp" for a job over MCP, else
	// the optional ability. Verified says how success was told.
	Needs    string `json:"needs"`
	Verified string `json:"verified"`
	Done     bool   `json:"done"`
	// Error says why it is not done; NoAbility, that the system does not offer what it needs.
	Error     string        `json:"error,omitempty"`
	NoAbility bool          `json:"no_ability,omitempty"`
	Duration  time.Duration `json:"duration_ns"`
	Cost      Cost          `json:"cost"`
}

// Cost is what control-plane calls came to.
type Cost struct {
	Calls     int `json:"calls"`
	WireBytes int `json:"wire_bytes"`
	// Tokens are those of the texts of requests and replies (o200k_base).
	Tokens int `json:"tokens"`
	// Textless counts the calls of which the driver reports bytes but no text. If there is any,
	// Tokens is too small to be a metric.
	Textless int `json:"textless,omitempty"`
}

// ProvokedError is an error that was caused on purpose, to see what a program can learn from it.
type ProvokedError struct {
	Name string `json:"name"`
	// Typed: it is a *sandbox.Error of the expected kind with Detail and Remedy; Missing names what
	// it lacks otherwise.
	Typed bool `json:"typed"`
	// Accepted: there was no error. Where that is the system's right, it counts neither way.
	Accepted bool     `json:"accepted,omitempty"`
	Missing  []string `json:"missing,omitempty"`
	Kind     string   `json:"kind,omitempty"`
	Detail   string   `json:"detail,omitempty"`
	Remedy   string   `json:"remedy,omitempty"`
	// Text is the error's message; Native the replies of the system's own control plane, raw.
	Text   string       `json:"text,omitempty"`
	Native []NativeCall `json:"native,omitempty"`
}

// NativeCall is one exchange with a system's own control plane, as the driver saw it.
type NativeCall struct {
	Plane   string `json:"plane"`
	Op      string `json:"op"`
	Request string `json:"request,omitempty"`
	Reply   string `json:"reply,omitempty"`
}

// Values returns the counted values of a series of a system, in the order in which they were taken.
func (r *Results) Values(system, name string) []float64 {
	var values []float64
	for _, s := range r.Samples {
		if s.System == system && s.Name == name && s.Kind == KindValue && !s.Interrupted {
			values = append(values, s.Value)
		}
	}
	return values
}
