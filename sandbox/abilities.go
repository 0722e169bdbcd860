package sandbox

import (
	"context"
	"io"
	"time"
)

// RangeReader is a Sandbox that reads a part of a file without what comes before it.
type RangeReader interface {
	// ReadRange copies up to size bytes of a regular file, from the offset on, to w: fewer, or none, if the
	// file ends before. offset is not negative, and size positive (see [CheckRange]).
	ReadRange(ctx context.Context, name string, offset, size int64, w io.Writer) error
}

// Connector is a Sandbox whose programs can be reached through their Unix sockets without a program that is run for it.
type Connector interface {
	// Connect connects to a stream socket in the sandbox's file system, as root, and passes to it what in gives and to
	// out what its peer sends. At the end of in, which is at once if in is nil, the peer reads the end of its input and
	// may go on to send. Connect returns when the peer has closed its end for sending, or closed it altogether; a Read of
	// in that goes on then may outlive it. When ctx ends, or out fails, the socket is closed. What is sent, but not yet
	// taken, is bounded in both directions.
	//
	// name is absolute; links are followed, and may lead nowhere but into the sandbox. If there is no such socket, the
	// error wraps fs.ErrNotExist, if nobody listens on it [ErrRefused], and if the sandbox comes from a time when it could
	// not do this, [ErrUnsupported].
	Connect(ctx context.Context, name string, in io.Reader, out io.Writer) error
}

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
	// Bytes is the space that it takes on disk, without what it shares with others.
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

// TemplateSpec describes a template to make.
type TemplateSpec struct {
	// Name is what it is called by: 1 to 64 lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit.
	Name string
	// Spec is that of its copies. Its image is to stay where it is for as long as the template is used.
	Spec Spec
	// WarmUp are programs that are run in it before, one after the other, each to its end with status 0. What they leave
	// running, in files and in memory is there in every copy.
	WarmUp []Cmd
	// Progress, if it is not nil, is told how far the making is. It is called by one goroutine at a time, which waits for it.
	Progress func(TemplateProgress)
}

// TemplateStage is a part of the making of a template.
type TemplateStage string

// The stages, in their order.
const (
	TemplateBoot   TemplateStage = "boot"    // a sandbox is made
	TemplateWarmUp TemplateStage = "warm-up" // one of the programs runs; there is a stage for each
	TemplateFreeze TemplateStage = "freeze"  // what the sandbox is now is taken
	TemplateWrite  TemplateStage = "write"   // that is written to disk
	TemplateTrial  TemplateStage = "trial"   // a copy is made, to see that it works and what it uses first
	TemplateFinish TemplateStage = "finish"  // all is brought to disk, and gets its name
)

// TemplateProgress is how far the making of a template is.
type TemplateProgress struct {
	Stage TemplateStage `json:"stage"`
	// Program is the number of the warm-up's program that runs, from 0.
	Program int `json:"program,omitempty"`
	// Done and Total are bytes, where the stage has some.
	Done  int64 `json:"done,omitempty"`
	Total int64 `json:"total,omitempty"`
}

// Template is a sandbox that waits on disk for its copies. It is a value, and the template stays when the process that has
// made it ends.
type Template struct {
	System string `json:"system"`
	Name   string `json:"name"`
	// Digest identifies the content: "sha256:" and 64 hexadecimal digits.
	Digest string `json:"digest"`
	// Bytes is the space that it takes on disk.
	Bytes   int64      `json:"bytes"`
	Created time.Time  `json:"created"`
	Spec    Spec       `json:"spec"`
	WarmUp  [][]string `json:"warm_up,omitempty"` // their arguments
}

// Templater is a Driver that keeps templates on this host, for all processes that use the same state directory.
type Templater interface {
	// CreateTemplate makes a template, and lets it have the name of an older one, which is then gone. On error
	// nothing of it is left.
	CreateTemplate(ctx context.Context, spec TemplateSpec) (Template, error)
	// Templates lists them by name.
	Templates(ctx context.Context) ([]Template, error)
	// ForkTemplate makes n sandboxes that go on from where the template is, all or none, each with an identity of its
	// own. A name that there is not gives an error that wraps fs.ErrNotExist.
	ForkTemplate(ctx context.Context, name string, n int) ([]Sandbox, error)
	// RemoveTemplate removes one. Sandboxes that were made of it live on. A name that there is not gives an error
	// that wraps fs.ErrNotExist.
	RemoveTemplate(ctx context.Context, name string) error
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
	// one piece, and no other guest. The judge then tells the guest's pages from what the VMM itself needs.
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
	// SentBytes is what the sandbox has sent to its network since its creation, headers included. 0 without one.
	SentBytes int64 `json:"sent_bytes,omitempty"`
}

// StatsReader is a Sandbox that reports its use of resources.
type StatsReader interface {
	Stats(ctx context.Context) (Stats, error)
}
