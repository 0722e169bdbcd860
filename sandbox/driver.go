// Package sandbox is the contract that every system is driven through.
//
// A [Driver] stands for one of the systems that can hold an agent's tool call; a [Sandbox] is one
// running instance. What all systems can do is in these two interfaces. What only some can do is an
// optional interface that a driver or a sandbox also implements ([Pauser], [Snapshotter],
// [Restorer], [Inspector], ...): callers find out with a type assertion, never by calling a method
// that answers "unsupported".
//
// The package depends on the standard library only and holds no behaviour beyond validation, so
// that a driver can be written outside this repository.
package sandbox

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"
)

// Driver drives one system on this host. All methods may be called concurrently.
type Driver interface {
	// System is the canonical name of the system (see package vms), for example "docker".
	System() string

	// Probe finds out whether the system can be used here and now. It starts nothing that outlives
	// the call and never hangs: it gives up when ctx ends, and after 30 s at the latest. Absence is
	// not an error; it is an Info with Available false, a Reason and a Remedy.
	Probe(ctx context.Context) Info

	// Create starts a sandbox from spec and returns once it accepts Exec. When ctx ends first,
	// Create undoes what it has begun and returns the context's error. ctx bounds creation only:
	// the sandbox lives until Close.
	Create(ctx context.Context, spec Spec) (Sandbox, error)

	// Sweep removes whatever sandboxes left on the host when the process that owned them died
	// without closing them, and returns how many it removed. Sandboxes of living processes, this
	// one included, are never touched. Sweep is idempotent.
	Sweep(ctx context.Context) (int, error)

	// Close closes every sandbox still open and releases what the driver holds. It is idempotent.
	// Daemons and caches that are shared between processes stay.
	Close() error
}

// Info is what Probe found.
type Info struct {
	System    string `json:"system"`
	Available bool   `json:"available"`
	// Version of the system itself, as it names itself; empty when unknown.
	Version string `json:"version,omitempty"`
	// Accelerator is what keeps guest code apart: "kvm", "tcg", "systrap", "ptrace", "runc", ...
	// A software-emulated figure is thereby never mistaken for a hardware one.
	Accelerator string `json:"accelerator,omitempty"`
	// Reason says why the system is not available; Remedy, what the user can do about it.
	Reason string `json:"reason,omitempty"`
	Remedy string `json:"remedy,omitempty"`
	// Notes are limits of an available system on this host ("checkpoint needs CRIU >= 4").
	Notes []string `json:"notes,omitempty"`
}

// Because returns i with the reason, and the remedy if there is one, that err gives.
func (i Info) Because(err error) Info {
	i.Reason = err.Error()
	if e, ok := errors.AsType[*Error](err); ok {
		i.Reason, i.Remedy = e.Detail, e.Remedy
	}
	return i
}

// Sandbox is one running sandbox. All methods may be called concurrently. After Close, and after
// the sandbox has died, every method returns an error that wraps [ErrClosed] or [ErrDead].
type Sandbox interface {
	// ID is unique on this host among all sandboxes that aether has ever made.
	ID() string

	// Exec runs cmd in the sandbox and returns when it has ended and its output has been
	// delivered. A program that ran, whatever its exit code, signal or timeout, is an Exit and no
	// error. When ctx ends, the program and all its descendants are killed and the context's error
	// is returned.
	Exec(ctx context.Context, cmd Cmd) (Exit, error)

	Files

	// Close kills everything inside, frees every resource on the host and returns when that is
	// done. It interrupts calls in progress; they return ErrClosed. It is idempotent.
	Close() error
}

// Files is access to the sandbox's file system. Names are absolute slash-separated paths in the
// sandbox (see [CheckPath]); symbolic links are resolved inside the sandbox and cannot lead out of
// it. A missing file is an error that wraps [fs.ErrNotExist].
type Files interface {
	// ReadFile copies the content of a regular file to w.
	ReadFile(ctx context.Context, name string, w io.Writer) error
	// WriteFile creates or truncates a file with the given permission bits and copies r to it. The
	// parent directory must exist. The file appears whole or not at all.
	WriteFile(ctx context.Context, name string, r io.Reader, perm fs.FileMode) error
	// ReadDir lists a directory, sorted by name.
	ReadDir(ctx context.Context, name string) ([]FileInfo, error)
	// Stat describes a file without following a link in the last element.
	Stat(ctx context.Context, name string) (FileInfo, error)
	// Remove deletes a file, or a directory with all it holds. A link is removed, not followed.
	// The root directory is refused.
	Remove(ctx context.Context, name string) error
}

// FileInfo describes a file in a sandbox.
type FileInfo struct {
	Name string `json:"name"` // base name
	Size int64  `json:"size"` // bytes
	// Mode holds type and permission bits.
	Mode    fs.FileMode `json:"mode"`
	ModTime time.Time   `json:"mod_time"`
	// Target of a symbolic link; empty otherwise.
	Target string `json:"target,omitempty"`
}
