package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/host"
	"github.com/aethervm/aether/internal/smaps"
	"github.com/aethervm/aether/sandbox"
)

// hostOf is the part of the facts about a host that is recorded with results.
func hostOf(f host.Facts) Host {
	h := Host{
		CPU: f.CPU.Model, CPUs: f.CPU.Cores, Arch: f.CPU.Arch, MemoryMiB: f.MemoryBytes / mib,
		Kernel: f.Kernel.Release, OS: f.OS, BootID: f.BootID, Facts: map[string]string{},
	}
	set := func(name, value string) {
		if value != "" {
			h.Facts[name] = value
		}
	}
	set("kernel version", f.Kernel.Version)
	set("cgroup", f.Cgroup.Version)
	set("kvm", string(f.KVM.State))
	set("kvm reason", f.KVM.Reason)
	if guest := f.Virtualisation.Guest; guest != nil {
		set("virtual machine", map[bool]string{true: "yes", false: "no"}[*guest])
	}
	set("machine", f.Virtualisation.Product)
	return h
}

// CurrentHost describes this machine.
func CurrentHost(ctx context.Context) (Host, error) {
	f := host.Read(ctx)
	if f.BootID == "" || f.Kernel.Release == "" {
		// Without them results of two boots could be mixed up.
		return Host{}, fmt.Errorf("describe host: boot ID %s, kernel %s", orNone(f.Unknown["boot_id"]), orNone(f.Unknown["kernel"]))
	}
	return hostOf(f), nil
}

// memory is how the host's memory is read.
type memory interface {
	// process is the memory of a process. One that is gone has none and is no error.
	process(p sandbox.HostProcess) (processMemory, error)
	// meminfo is /proc/meminfo in bytes by field name.
	meminfo() (map[string]int64, error)
}

// processMemory is the memory of a process in bytes.
type processMemory struct {
	pss   int64 // proportional set size
	shmem int64 // the part of it that is shared memory (memfd, tmpfs)
	// guest is the part of it that is the RAM of a guest; known says whether it could be told apart.
	guest int64
	known bool
}

// hostMemory reads /proc.
type hostMemory struct{}

func (hostMemory) process(p sandbox.HostProcess) (processMemory, error) {
	m, err := readProcess(p)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		return processMemory{}, nil
	case errors.Is(err, fs.ErrPermission):
		return m, fmt.Errorf("read memory of process %d: %w; run as root", p.PID, err)
	case err != nil:
		return m, fmt.Errorf("read memory of process %d: %w", p.PID, err)
	}
	return m, nil
}

func readProcess(p sandbox.HostProcess) (m processMemory, err error) {
	fields, err := readRollup(p.PID)
	if err != nil {
		return m, err
	}
	m.pss, m.shmem = fields["Pss"], fields["Pss_Shmem"]
	if p.GuestRAM > 0 {
		m.guest, m.known, err = smaps.GuestPSS(p.PID, p.GuestRAM, 1)
	}
	return m, err
}

func readRollup(pid int) (host.Memory, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return host.ParseMemory(f)
}

func (hostMemory) meminfo() (map[string]int64, error) {
	m, err := host.Meminfo()
	if err != nil {
		return nil, fmt.Errorf("read memory of host: %w", err)
	}
	return m, nil
}
