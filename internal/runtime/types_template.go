package runtime

import (
	"io"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// TemplateRequest is what CreateTemplate takes.
type TemplateRequest struct {
	// Name is what it is called by: 1 to 64 lower-case letters, digits, '.', '_' and '-', beginning with a letter or a
	// digit, and none that looks like the ID of a template. A name that the tenant has already moves to the new template,
	// and the old one is removed.
	Name string `json:"name"`
	// System, Image, VCPUs, MemoryMiB, Processes, Network, Egress and Env are those of the copies, as in SandboxSpec.
	System    string          `json:"system,omitempty"`
	Image     string          `json:"image,omitempty"`
	VCPUs     int             `json:"vcpus,omitempty"`
	MemoryMiB int             `json:"memory_mib,omitempty"`
	Processes int             `json:"processes,omitempty"`
	Network   sandbox.Network `json:"network,omitempty"`
	Egress    []string        `json:"egress,omitempty"`
	Env       []string        `json:"env,omitempty"`
	// WarmUp are command lines for /bin/sh, at most 64 of 64 KiB together, that are run before, one after the other, each to
	// its end with status 0. What they leave running, in files and in memory is there in every copy.
	WarmUp []string `json:"warm_up,omitempty"`
	// Key makes the call idempotent for the tenant, as in CreateRequest.
	Key string `json:"-"`

	// Progress, if set, is told how far it is, in calls one after the other. The making waits while it works.
	Progress func(sandbox.TemplateProgress) `json:"-"`
	// Stdout and Stderr, if set, get what the programs of the warm-up write, at the same time. When one fails, the program
	// finds its output closed.
	Stdout io.Writer `json:"-"`
	Stderr io.Writer `json:"-"`
}

// TemplateInfo describes a template. It belongs to the tenant, outlives the session and the runtime, and stays until it is
// removed or its name moves to another one.
type TemplateInfo struct {
	// ID matches [a-z0-9._-]+.
	ID     string `json:"id"`
	Name   string `json:"name"`
	System string `json:"system"`
	Image  string `json:"image"`
	// Digest identifies the content.
	Digest    string          `json:"digest"`
	VCPUs     int             `json:"vcpus"`
	MemoryMiB int             `json:"memory_mib"`
	Network   sandbox.Network `json:"network"`
	Egress    []string        `json:"egress,omitempty"`
	// WarmUp is shown to the tenant that it belongs to.
	WarmUp  []string  `json:"warm_up,omitempty"`
	Bytes   int64     `json:"bytes"` // on disk
	Created time.Time `json:"created"`
	// Shared tells that all tenants of the runtime may copy it.
	Shared bool `json:"shared,omitempty"`
	// Foreign tells that it belongs to somebody else than who asks, and cannot be removed by him.
	Foreign bool `json:"foreign,omitempty"`
}
