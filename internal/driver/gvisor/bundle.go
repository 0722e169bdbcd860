package gvisor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/sandbox"
)

// ociVersion is the version of the runtime specification that the bundle is written to: the lowest
// that has all it uses, since a runtime refuses one that is newer than itself.
const ociVersion = "1.0.2"

// capabilities are those that Docker gives by default, without CAP_MKNOD, which has no use where
// the devices are the sentry's own, and CAP_NET_RAW, which runsc withholds anyway. They are
// privileges towards the sentry, not the host.
func capabilities() *specs.LinuxCapabilities {
	list := []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
		"CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
	return &specs.LinuxCapabilities{Bounding: list, Effective: list, Permitted: list}
}

// bundle is what the OCI configuration of a sandbox depends on.
type bundle struct {
	id     string
	spec   sandbox.Spec // with defaults
	agent  string       // path of the guest agent on the host
	cgroup group
	swap   bool // the host's kernel can limit swap
}

const (
	cpuPeriod = 100_000 // µs
	// Each guest process takes two host tasks: a stub and the thread that runs in it. The sentry and
	// the gofer have about 25 themselves, and more with more CPUs. The sentry panics when it cannot
	// make a task, so the limit, which protects the host, leaves room above what was asked for.
	tasksPerProcess = 3
	tasksOverhead   = 128
	mib             = 1 << 20
)

// config builds the OCI configuration.
func (b bundle) config() *specs.Spec {
	memory := int64(b.spec.MemoryMiB) * mib
	quota, period := int64(b.spec.VCPUs)*cpuPeriod, uint64(cpuPeriod)
	resources := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory},
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: &period},
		Pids:   &specs.LinuxPids{Limit: int64(b.spec.Processes)*tasksPerProcess + tasksOverhead},
	}
	if b.swap {
		resources.Memory.Swap = &memory // memory and swap together
	}
	// As the kernel does for a tmpfs, and below the memory limit, so that a full /tmp is an error of
	// write and not the end of the sandbox.
	tmpSize := fmt.Sprintf("size=%dm", b.spec.MemoryMiB/2)
	return &specs.Spec{
		Version:  ociVersion,
		Hostname: b.id,
		Root:     &specs.Root{Path: b.spec.Image.Rootfs},
		Process: &specs.Process{
			Args:            []string{guestagent.Mount, "park", "--spawn"},
			Env:             sandbox.Environ(b.spec.Image.Env, b.spec.Env),
			Cwd:             "/",
			NoNewPrivileges: true,
			Capabilities:    capabilities(),
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 1 << 20}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", "size=64m"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", tmpSize}},
			{Destination: guestagent.Mount, Type: "bind", Source: b.agent, Options: []string{"bind", "ro", "nosuid", "nodev"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: b.cgroup.path(),
			Resources:   resources,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			},
		},
	}
}

// write writes the configuration to dir.
func (b bundle) write(dir string) error {
	content, err := json.MarshalIndent(b.config(), "", "  ")
	if err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	// The environment may hold secrets.
	if err := os.WriteFile(filepath.Join(dir, "config.json"), content, 0o600); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}
