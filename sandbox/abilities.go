package sandbox

import "context"

// Pauser is a Sandbox whose guest can be stopped and let go on. While it is paused no guest code
// runs and no guest time is billed; memory stays. Both methods are idempotent.
type Pauser interface {
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
}

// SnapshotKind says what a snapshot holds.
type SnapshotKind string

const (
	// SnapshotFull holds memory, processes and files: what ran goes on.
	SnapshotFull SnapshotKind = "full"
	// SnapshotFiles holds the file system only: what ran is gone.
	SnapshotFiles SnapshotKind = "files"
)

// Snapshot is a saved sandbox. It is a value: it can be stored as JSON and used by another process
// on the same host.
type Snapshot struct {
	System string       `json:"system"`
	Kind   SnapshotKind `json:"kind"`
	// Ref is where it lies, in the driver's terms: a directory, or a name in the system's store.
	Ref string `json:"ref"`
	// Bytes is the space that it takes on disk.
	Bytes int64 `json:"bytes"`
	// Spec is the spec of the sandbox that was saved.
	Spec Spec `json:"spec"`
}

// Snapshotter is a Sandbox that can be saved. The sandbox goes on running when Snapshot returns;
// nothing that it does afterwards changes the snapshot.
type Snapshotter interface {
	// Snapshot saves the sandbox. dir is an existing empty directory, owned by the caller, for a
	// system that saves to files. On error nothing is left but dir itself.
	Snapshot(ctx context.Context, dir string) (Snapshot, error)
}

// Restorer is a Driver that makes sandboxes from snapshots. One snapshot may be restored any
// number of times, also at once; each sandbox has an identity of its own.
type Restorer interface {
	// Restore starts a sandbox from snap and returns once it accepts Exec.
	Restore(ctx context.Context, snap Snapshot) (Sandbox, error)
	// RemoveSnapshot frees what the snapshot holds. Sandboxes restored from it live on. Removing
	// one that is gone is no error.
	RemoveSnapshot(ctx context.Context, snap Snapshot) error
}

// Forker is a Sandbox that can be copied while it runs, without the detour over a snapshot.
type Forker interface {
	// Fork makes n copies that go on from the same instant as the original, all or none.
	Fork(ctx context.Context, n int) ([]Sandbox, error)
}

// Role of a host process.
type Role string

const (
	// RoleGuest runs guest code: a VMM, gVisor's sentry, or the workload's own processes where the
	// guest shares the host's kernel.
	RoleGuest Role = "guest"
	// RoleHelper serves one sandbox without running guest code: a shim, a gofer, a proxy.
	RoleHelper Role = "helper"
	// RoleDaemon serves all sandboxes of a system.
	RoleDaemon Role = "daemon"
)

// HostProcess is a process of this host, as seen in its PID namespace.
type HostProcess struct {
	PID  int  `json:"pid"`
	Role Role `json:"role"`
	// GuestRAM is the size of the guest's RAM in bytes, if the process is a VMM that has it mapped in
	// one piece. The judge then tells the guest's pages from what the VMM itself needs.
	GuestRAM int64 `json:"guest_ram,omitempty"`
}

// Inspector is a Sandbox that tells which host processes serve it. The judge reads their memory
// and their confinement.
type Inspector interface {
	HostProcesses(ctx context.Context) ([]HostProcess, error)
}

// DaemonInspector is a Driver with processes that serve all its sandboxes.
type DaemonInspector interface {
	Daemons(ctx context.Context) ([]HostProcess, error)
}

// Stats is what a sandbox has used, by the account of the system itself.
type Stats struct {
	MemoryBytes int64 `json:"memory_bytes"` // in use now
	CPUNanos    int64 `json:"cpu_ns"`       // since creation
	Processes   int   `json:"processes"`    // alive now
}

// StatsReader is a Sandbox that reports its use of resources.
type StatsReader interface {
	Stats(ctx context.Context) (Stats, error)
}
