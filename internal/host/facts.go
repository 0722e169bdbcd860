package host

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/kvm"
)

// Facts describe the host. What could not be read is empty and has an entry in Unknown.
type Facts struct {
	CPU         CPU    `json:"cpu"`
	MemoryBytes int64  `json:"memory_bytes,omitempty"`
	Kernel      Kernel `json:"kernel"`
	// OS is the distribution's own name for itself.
	OS             string         `json:"os,omitempty"`
	Virtualisation Virtualisation `json:"virtualisation"`
	Cgroup         Cgroup         `json:"cgroup"`
	// UID is the effective user that the facts were read as.
	UID int `json:"uid"`
	// BootID changes with every boot of the machine.
	BootID string `json:"boot_id,omitempty"`
	// BootTime is when the machine booted, in seconds since 1970.
	BootTime int64       `json:"boot_time,omitempty"`
	KVM      kvm.Reality `json:"kvm"`
	// Unknown says why a fact is missing, by the fact's name in JSON ("cpu.model").
	Unknown map[string]string `json:"unknown,omitempty"`
}

// CPU is the processor as the kernel shows it.
type CPU struct {
	Model  string `json:"model,omitempty"`
	Vendor string `json:"vendor,omitempty"`
	// Cores is the number of logical processors that this process may run on.
	Cores int    `json:"cores"`
	Arch  string `json:"arch"`
}

// Kernel identifies the running kernel, as uname(2) does.
type Kernel struct {
	Release string `json:"release,omitempty"`
	Version string `json:"version,omitempty"`
}

// Virtualisation says whether this machine is itself a virtual one.
type Virtualisation struct {
	// Guest is absent when it could not be found out.
	Guest *bool `json:"guest,omitempty"`
	// Product is what the firmware says the machine is ("QEMU Standard PC"); empty when unreadable.
	Product string `json:"product,omitempty"`
	// Source says what the answer rests on.
	Source string `json:"source,omitempty"`
}

// Read collects the facts. It runs the probe of /dev/kvm, which takes part of a second at most; the
// other facts are a few small files. When ctx ends, what is known so far is returned.
func Read(ctx context.Context) Facts {
	f := Facts{UID: os.Geteuid(), Unknown: map[string]string{}}
	f.readCPU()
	f.readKernel()
	f.readOS()
	f.readVirtualisation()
	var err error
	if f.Cgroup, err = readCgroup("/proc/self/mountinfo"); err != nil {
		f.unknown("cgroup", err)
	}
	if m, err := Meminfo(); err != nil {
		f.unknown("memory_bytes", err)
	} else if f.MemoryBytes = m["MemTotal"]; f.MemoryBytes == 0 {
		f.unknown("memory_bytes", fmt.Errorf("/proc/meminfo has no MemTotal"))
	}
	if f.KVM, err = kvm.Probe(ctx); err != nil {
		f.unknown("kvm", err)
	}
	if len(f.Unknown) == 0 {
		f.Unknown = nil
	}
	return f
}

func (f *Facts) unknown(fact string, err error) { f.Unknown[fact] = err.Error() }

func (f *Facts) readCPU() {
	f.CPU.Arch, f.CPU.Cores = runtime.GOARCH, runtime.NumCPU()
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		f.unknown("cpu.model", err)
		f.unknown("cpu.vendor", err)
		return
	}
	info := fields(text, ":")
	f.CPU.Model, f.CPU.Vendor = info["model name"], info["vendor_id"]
	for fact, value := range map[string]string{"cpu.model": f.CPU.Model, "cpu.vendor": f.CPU.Vendor} {
		if value == "" {
			f.unknown(fact, fmt.Errorf("/proc/cpuinfo does not say"))
		}
	}
}

func (f *Facts) readKernel() {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		f.unknown("kernel", err)
	} else {
		f.Kernel = Kernel{Release: unix.ByteSliceToString(u.Release[:]), Version: unix.ByteSliceToString(u.Version[:])}
	}
	if id, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err != nil {
		f.unknown("boot_id", err)
	} else {
		f.BootID = strings.TrimSpace(string(id))
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		f.unknown("boot_time", err)
	} else if f.BootTime, err = strconv.ParseInt(fields(stat, " ")["btime"], 10, 64); err != nil {
		f.unknown("boot_time", fmt.Errorf("/proc/stat: btime: %w", err))
	}
}

func (f *Facts) readOS() {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		f.unknown("os", err)
		return
	}
	name := fields(text, "=")["PRETTY_NAME"]
	if unquoted, err := strconv.Unquote(name); err == nil {
		name = unquoted
	}
	if f.OS = name; name == "" {
		f.unknown("os", fmt.Errorf("/etc/os-release has no PRETTY_NAME"))
	}
}

func (f *Facts) readVirtualisation() {
	v := &f.Virtualisation
	var product []string
	for _, name := range []string{"sys_vendor", "product_name"} {
		if text, err := os.ReadFile("/sys/class/dmi/id/" + name); err == nil {
			product = append(product, strings.TrimSpace(string(text)))
		}
	}
	v.Product = strings.Join(product, " ")

	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		f.unknown("virtualisation.guest", err)
		return
	}
	flags, ok := fields(text, ":")["flags"]
	if !ok {
		f.unknown("virtualisation.guest", fmt.Errorf("/proc/cpuinfo lists no CPU flags"))
		return
	}
	// CPUID leaf 1, ECX bit 31: hardware always says 0, hypervisors 1, by convention.
	guest := strings.Contains(" "+flags+" ", " hypervisor ")
	v.Guest, v.Source = &guest, "hypervisor bit of CPUID"
}
