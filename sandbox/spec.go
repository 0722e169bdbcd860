package sandbox

import (
	"fmt"
	"path"
	"strings"
)

// Limits of a Spec, and what stands in for a zero field.
const (
	DefaultVCPUs     = 1
	MaxVCPUs         = 64
	DefaultMemoryMiB = 256
	MinMemoryMiB     = 64
	MaxMemoryMiB     = 1 << 20
	DefaultProcesses = 512
	MinProcesses     = 16
	MaxProcesses     = 1 << 20
)

// Network says what a sandbox can reach.
type Network string

const (
	// NetworkNone gives the sandbox a loopback interface of its own and nothing else. It is the
	// default: egress is denied unless it was asked for.
	NetworkNone Network = "none"
	// NetworkOutbound lets the sandbox open flows to the outside: to what Spec.Egress allows or, without
	// rules, to whatever the system's ordinary outbound network reaches. A driver that cannot do so on
	// this host refuses with ErrUnsupported.
	NetworkOutbound Network = "outbound"
)

// Spec describes the sandbox to create. The zero value of every field but Image is usable.
type Spec struct {
	// Image is the root file system, the same for every system. The sandbox may write to its own
	// copy; what it writes is gone when it is closed and is never seen by another sandbox.
	Image Image `json:"image"`
	// VCPUs is the number of virtual CPUs, 1..64; 0 means 1.
	VCPUs int `json:"vcpus,omitempty"`
	// MemoryMiB bounds the memory that the workload may use, in MiB, 64..1048576; 0 means 256.
	MemoryMiB int `json:"memory_mib,omitempty"`
	// Processes bounds the number of processes and threads of the workload; 0 means 512. A system
	// whose guest has a kernel of its own may leave it to that kernel.
	Processes int `json:"processes,omitempty"`
	// Network is what the sandbox can reach; empty means NetworkNone.
	Network Network `json:"network,omitempty"`
	// Egress are the rules about where to, each the text of an [EgressRule]; they need NetworkOutbound.
	// With any, nothing else can be reached or resolved. A driver that cannot hold a sandbox to rules
	// refuses them with ErrUnsupported.
	Egress []string `json:"egress,omitempty"`
	// Env is added to the environment of every command, as KEY=value.
	Env []string `json:"env,omitempty"`
	// Outside, if not nil, opens the sandbox's flows; it needs NetworkOutbound. A driver that cannot have flows opened
	// for it refuses with ErrUnsupported. The sandbox takes it over when Create returns without an error, closes it
	// when it is closed, and makes a copy of it for each copy of itself. Snapshots and templates have none.
	Outside Outside `json:"-"`
}

// Image is a root file system unpacked on this host. Package internal/image makes them.
type Image struct {
	// Digest identifies the content: "sha256:" and 64 hexadecimal digits.
	Digest string `json:"digest"`
	// Rootfs is the absolute path of the unpacked tree. It is shared: nobody writes to it.
	Rootfs string `json:"rootfs"`
	// Cache is the absolute path of a directory where drivers may keep, under names of their own,
	// forms of this image that they derived (a disk image, say). It is removed with the image.
	Cache string `json:"cache,omitempty"`
	// Env is the image's own environment as KEY=value; Spec.Env and Cmd.Env override it.
	Env []string `json:"env,omitempty"`
}

// WithDefaults returns s with its zero fields filled in, or an error that wraps ErrInvalid and
// names the field.
func (s Spec) WithDefaults() (Spec, error) {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&s.VCPUs, DefaultVCPUs)
	def(&s.MemoryMiB, DefaultMemoryMiB)
	def(&s.Processes, DefaultProcesses)
	if s.Network == "" {
		s.Network = NetworkNone
	}
	switch {
	case s.Image.Rootfs == "" || !path.IsAbs(s.Image.Rootfs):
		return s, invalid("image.rootfs", s.Image.Rootfs, "the absolute path of an unpacked image; see `aether image build`")
	case s.VCPUs < 1 || s.VCPUs > MaxVCPUs:
		return s, invalid("vcpus", s.VCPUs, fmt.Sprintf("1 to %d", MaxVCPUs))
	case s.MemoryMiB < MinMemoryMiB || s.MemoryMiB > MaxMemoryMiB:
		return s, invalid("memory_mib", s.MemoryMiB, fmt.Sprintf("%d to %d", MinMemoryMiB, MaxMemoryMiB))
	case s.Processes < MinProcesses || s.Processes > MaxProcesses:
		return s, invalid("processes", s.Processes, fmt.Sprintf("%d to %d", MinProcesses, MaxProcesses))
	case s.Network != NetworkNone && s.Network != NetworkOutbound:
		return s, invalid("network", s.Network, `"none" or "outbound"`)
	case s.Outside != nil && s.Network != NetworkOutbound:
		return s, invalid("network", fmt.Sprintf("%q, and there is something to open its flows", s.Network), `"outbound" for that`)
	}
	if _, err := s.EgressRules(); err != nil {
		return s, err
	}
	return s, checkEnv("env", s.Env)
}

// CheckPath reports whether name is a path that Files methods accept: absolute, slash-separated,
// without NUL bytes and without ".." elements, at most 4,095 bytes.
func CheckPath(name string) error {
	switch {
	case !strings.HasPrefix(name, "/"):
		return invalid("path", name, "an absolute path")
	case len(name) > 4095:
		return invalid("path", name[:32]+"...", "at most 4,095 bytes")
	case strings.ContainsRune(name, 0):
		return invalid("path", fmt.Sprintf("%q", name), "no NUL byte")
	}
	for elem := range strings.SplitSeq(name, "/") {
		if elem == ".." {
			return invalid("path", name, `no ".." element`)
		}
	}
	return nil
}

// CheckRange reports whether a range is one that ReadRange accepts.
func CheckRange(offset, size int64) error {
	switch {
	case offset < 0:
		return invalid("offset", offset, "zero or more bytes")
	case size <= 0:
		return invalid("size", size, "one byte or more")
	}
	return nil
}

func checkEnv(field string, env []string) error {
	for _, kv := range env {
		key, _, ok := strings.Cut(kv, "=")
		if !ok || key == "" || strings.ContainsRune(kv, 0) {
			return invalid(field, fmt.Sprintf("%q", kv), "KEY=value without NUL bytes")
		}
	}
	return nil
}

func invalid(field string, got any, want string) error {
	return &Error{Op: "check", Err: ErrInvalid, Detail: fmt.Sprintf("%s is %v", field, got), Remedy: "it must be " + want}
}
