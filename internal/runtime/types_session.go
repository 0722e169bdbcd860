package runtime

import "time"

// Capability is what a session may do.
type Capability string

// The capabilities.
const (
	// CanRead lists sandboxes, reads files and outputs, polls processes.
	CanRead Capability = "read"
	// CanExec creates and kills sandboxes, runs programs and code in them, writes files, signals.
	CanExec Capability = "exec"
	// CanFork forks, snapshots, restores and rolls back.
	CanFork Capability = "fork"
	// CanNetwork creates sandboxes that reach a network. It is not among the defaults.
	CanNetwork Capability = "network"
)

// DefaultCapabilities is what a session has whose SessionSpec names none: all but the network.
func DefaultCapabilities() []Capability { return []Capability{CanRead, CanExec, CanFork} }

// SessionSpec describes a session to open.
type SessionSpec struct {
	// ID names the session within its tenant: 1 to 64 of [A-Za-z0-9._-]. Opening one that is open
	// returns it as it is; empty makes a new one with an ID of its own.
	ID string `json:"id,omitempty"`
	// Capabilities, nil meaning DefaultCapabilities, never exceed those of the tenant.
	Capabilities []Capability `json:"capabilities,omitempty"`
	// Budget is never more than that of the runtime's Limits; a zero field means just that.
	Budget Budget `json:"budget,omitzero"`
}

// TenantSpec describes a tenant to create.
type TenantSpec struct {
	// Name is for people: 1 to 64 of [A-Za-z0-9._-]; unique.
	Name string `json:"name"`
	// Capabilities, nil meaning DefaultCapabilities, bound those of its sessions.
	Capabilities []Capability `json:"capabilities,omitempty"`
	// Budget is for all its sessions together; zero fields are unbounded.
	Budget Budget `json:"budget,omitzero"`
}

// Tenant is whoever a token stands for.
type Tenant struct {
	ID           string       `json:"id"`
	Name         string       `json:"name"`
	Capabilities []Capability `json:"capabilities"`
	Budget       Budget       `json:"budget,omitzero"`
	Created      time.Time    `json:"created"`
}

// Resource is what a budget bounds; the unit is in the name.
type Resource string

// The resources. The first two are of sandboxes alive, paused ones too, and are given back when one
// is killed. The last three are of what is kept on disk, and are given back when that is removed: of a tenant, of all that
// it keeps; of a session, of what it has made itself. The others add up, and are given back when the window ends.
const (
	Sandboxes      Resource = "sandboxes"
	MemoryMiB      Resource = "memory_mib"
	SandboxSeconds Resource = "sandbox_seconds" // of sandboxes alive and not paused
	OutputBytes    Resource = "output_bytes"    // written by programs, shown or not
	VCPUSeconds    Resource = "vcpu_seconds"    // where the system reports them
	EgressBytes    Resource = "egress_bytes"    // sent to the network, headers included, where the system reports them
	Snapshots      Resource = "snapshots"
	Templates      Resource = "templates"
	KeptBytes      Resource = "kept_bytes" // of snapshots and templates
)

// Budget bounds what a session or a tenant uses. A zero field is no bound.
type Budget struct {
	Sandboxes      int64 `json:"sandboxes,omitempty"`
	MemoryMiB      int64 `json:"memory_mib,omitempty"`
	SandboxSeconds int64 `json:"sandbox_seconds,omitempty"`
	OutputBytes    int64 `json:"output_bytes,omitempty"`
	VCPUSeconds    int64 `json:"vcpu_seconds,omitempty"`
	EgressBytes    int64 `json:"egress_bytes,omitempty"`
	Snapshots      int64 `json:"snapshots,omitempty"`
	Templates      int64 `json:"templates,omitempty"`
	KeptBytes      int64 `json:"kept_bytes,omitempty"`
	// Window is how long it takes until what adds up begins at zero again; 0 is never.
	Window time.Duration `json:"window,omitempty"`
}

// BudgetState is what is used of a budget.
type BudgetState struct {
	Lines []BudgetLine `json:"lines"`
	// WindowEnds is when what adds up begins at zero again; nil is never.
	WindowEnds *time.Time `json:"window_ends,omitempty"`
}

// BudgetLine is one resource of a BudgetState. A resource without a bound has no line.
type BudgetLine struct {
	Resource Resource `json:"resource"`
	Limit    int64    `json:"limit"`
	Used     int64    `json:"used"`
	Left     int64    `json:"left"`
}
