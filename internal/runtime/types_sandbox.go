package runtime

import (
	"time"

	"github.com/aethervm/aether/sandbox"
)

// SandboxSpec is what a sandbox is to be. Its zero value is a good one.
type SandboxSpec struct {
	// Template is the ID or name of one to make it a copy of. Of the fields that follow it may have TTL, Idle and Labels
	// then: the others are the template's.
	Template string `json:"template,omitempty"`
	// System is a name of package vms, or "auto"; empty means what the runtime was opened with.
	System string `json:"system,omitempty"`
	// Image is a name or a digest; empty means the runtime's default.
	Image string `json:"image,omitempty"`
	// VCPUs, MemoryMiB and Processes are as in sandbox.Spec; 0 means its defaults.
	VCPUs     int `json:"vcpus,omitempty"`
	MemoryMiB int `json:"memory_mib,omitempty"`
	Processes int `json:"processes,omitempty"`
	// Network other than none needs CanNetwork.
	Network sandbox.Network `json:"network,omitempty"`
	// Egress are the rules about where to, as in sandbox.Spec. With any, an empty Network is outbound.
	Egress []string `json:"egress,omitempty"`
	// Env is added to the environment of every program, as KEY=value.
	Env []string `json:"env,omitempty"`
	// Secrets are credentials that the sandbox may use without seeing them; they need CanNetwork. Their hosts can be
	// reached then, and nothing else if neither Network nor Egress says so.
	Secrets []SecretUse `json:"secrets,omitempty"`
	// TTL kills the sandbox so long after its creation, whatever goes on in it; 0 is never.
	TTL time.Duration `json:"ttl,omitempty"`
	// Idle says what happens to it when nothing goes on in it.
	Idle IdlePolicy `json:"idle,omitzero"`
	// Labels are the caller's own, at most 16, of at most 64 bytes a key and 256 a value.
	Labels map[string]string `json:"labels,omitempty"`
}

// CreateRequest is what Create takes.
type CreateRequest struct {
	SandboxSpec
	// Key makes the call idempotent: a second one with the same key, of the same session, answers as
	// the first did and creates nothing. At most 256 bytes; kept for 24 hours.
	Key string `json:"-"`
}

// State of a sandbox.
type State string

// The states.
const (
	StateRunning State = "running"
	StatePaused  State = "paused"
)

// SandboxInfo describes a sandbox that is alive.
type SandboxInfo struct {
	// ID matches [a-z0-9]+.
	ID     string `json:"id"`
	System string `json:"system"`
	// Why says how System was chosen.
	Why       string            `json:"why,omitempty"`
	State     State             `json:"state"`
	Image     string            `json:"image"`
	VCPUs     int               `json:"vcpus"`
	MemoryMiB int               `json:"memory_mib"`
	Network   sandbox.Network   `json:"network"`
	Egress    []string          `json:"egress,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	// Parent is the sandbox that it was forked from, Snapshot what it was restored from, Template what it was made a copy of.
	Parent   string    `json:"parent,omitempty"`
	Snapshot string    `json:"snapshot,omitempty"`
	Template string    `json:"template,omitempty"`
	Created  time.Time `json:"created"`
	// Processes is how many background processes run in it.
	Processes int `json:"processes"`
	// Seconds from now until it is paused or killed for idleness, if nothing happens in it, and until
	// its time to live is over. Nil means that this will not happen.
	PauseIn   *int64 `json:"pause_in_s,omitempty"`
	KillIn    *int64 `json:"kill_in_s,omitempty"`
	ExpiresIn *int64 `json:"expires_in_s,omitempty"`
}

// Listing is what List returns.
type Listing struct {
	Sandboxes []SandboxInfo  `json:"sandboxes"`           // in the order of their creation
	Processes []ProcessInfo  `json:"processes"`           // background processes, ended ones too while their output is kept
	Snapshots []SnapshotInfo `json:"snapshots"`           // of the tenant
	Templates []TemplateInfo `json:"templates,omitempty"` // that it may copy
	Budget    BudgetState    `json:"budget"`
}

// ForkRequest is what Fork takes.
type ForkRequest struct {
	Sandbox string `json:"sandbox"`
	// Count is the number of children, 1 to Limits.Forks; 0 means the number of Runs, or 1.
	Count int `json:"count,omitempty"`
	// Runs are foreground programs for the children to run at once: none, one for each to run, or as
	// many as there are children. Their Sandbox and Key stay empty. In each the environment has
	// AETHER_FORK, the child's number from 0.
	Runs []RunRequest `json:"runs,omitempty"`
	Key  string       `json:"-"`
}

// ForkResult is what Fork returns.
type ForkResult struct {
	// Kind tells what the children have of the parent: all of it, or its files only.
	Kind sandbox.SnapshotKind `json:"kind"`
	// Children are as many as were asked for: all or none.
	Children []ForkChild `json:"children"`
	// DurationMS is what making the children took, without their programs.
	DurationMS int64 `json:"duration_ms"`
}

// ForkChild is one child and, if it had something to run, how that went. At most one of Run and
// Error is set.
type ForkChild struct {
	Sandbox SandboxInfo `json:"sandbox"`
	Run     *RunResult  `json:"run,omitempty"`
	Error   *Error      `json:"error,omitempty"`
}

// SnapshotRequest is what Snapshot takes.
type SnapshotRequest struct {
	Sandbox string `json:"sandbox"`
	// Name is for people, at most 64 bytes; it need not be unique.
	Name string `json:"name,omitempty"`
	Key  string `json:"-"`
}

// SnapshotInfo describes a snapshot. It belongs to the tenant, outlives the session and the runtime,
// and stays until it is removed.
type SnapshotInfo struct {
	ID      string               `json:"id"`
	Name    string               `json:"name,omitempty"`
	System  string               `json:"system"`
	Kind    sandbox.SnapshotKind `json:"kind"`
	Image   string               `json:"image"`
	Sandbox string               `json:"sandbox"` // that it was taken of
	Bytes   int64                `json:"bytes"`   // on disk
	Created time.Time            `json:"created"`
}

// RestoreRequest is what Restore takes.
type RestoreRequest struct {
	Snapshot string            `json:"snapshot"`
	TTL      time.Duration     `json:"ttl,omitempty"`
	Idle     IdlePolicy        `json:"idle,omitzero"`
	Labels   map[string]string `json:"labels,omitempty"`
	Key      string            `json:"-"`
}

// RollbackRequest is what Rollback takes.
type RollbackRequest struct {
	Sandbox  string `json:"sandbox"`
	Snapshot string `json:"snapshot"`
}
