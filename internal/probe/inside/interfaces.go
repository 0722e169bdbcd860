package inside

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/probe/finding"
)

type unixStat = syscall.Stat_t

func interfaceProbes() []entry {
	return []entry{
		{finding.Probe{Name: "kernel.levers", Scope: finding.ScopeKernel,
			Question: "Which files open for writing that make the kernel run a program as root, or crash (core_pattern, modprobe, release_agent, sysrq-trigger, ...)?",
			Better:   "None.",
			Worse:    "Any: with the host's kernel behind it, each is a known way out of a container."}, levers},
		{finding.Probe{Name: "kernel.settings", Scope: finding.ScopeKernel,
			Question: "Which settings below /proc/sys that belong to the whole machine are writable?",
			Better:   "None.",
			Worse:    "Any: they change the host for everyone."}, settings},
		{finding.Probe{Name: "kernel.objects", Scope: finding.ScopeKernel,
			Question: "Which files below /sys are writable?",
			Better:   "None.",
			Worse:    "Any: they drive the host's devices, modules and cgroups."}, objects},
	}
}

// leverFiles are opened for writing and closed again, which changes nothing.
var leverFiles = []string{
	"/proc/sys/fs/binfmt_misc/register",
	"/proc/sys/kernel/core_pattern",
	"/proc/sys/kernel/hotplug",
	"/proc/sys/kernel/modprobe",
	"/proc/sys/kernel/poweroff_cmd",
	"/proc/sys/kernel/usermodehelper/bset",
	"/proc/sys/vm/panic_on_oom",
	"/proc/sysrq-trigger",
	"/sys/kernel/uevent_helper",
	"/sys/power/state",
}

func levers() answer {
	names := slices.Clone(leverFiles)
	// Only the root of a v1 hierarchy has a release_agent.
	if dirs, err := os.ReadDir("/sys/fs/cgroup"); err == nil {
		for _, d := range dirs {
			names = append(names, path.Join("/sys/fs/cgroup", d.Name(), "release_agent"))
		}
	}
	var open []string
	for _, name := range names {
		fd, err := unix.Open(name, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG { // not masked by a device
			open = append(open, name)
		}
		_ = unix.Close(fd)
	}
	return listed(open, "writable")
}

// listed is the answer to "which ...?": none is better, any is worse.
func listed(items []string, what string) answer {
	if len(items) == 0 {
		return answer{value: "none", verdict: finding.Better}
	}
	slices.Sort(items)
	return answer{value: fmt.Sprintf("%d %s", len(items), what), verdict: finding.Worse, items: items}
}

// namespaced are settings of which every namespace has its own, so that writing them reaches nobody
// else.
var namespaced = []string{
	"/proc/sys/net", "/proc/sys/user", "/proc/sys/fs/mqueue",
	"/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname", "/proc/sys/kernel/ns_last_pid",
	"/proc/sys/kernel/sem", "/proc/sys/kernel/auto_msgmni",
	"/proc/sys/kernel/msg", "/proc/sys/kernel/shm", // and all that begin so
}

func settings() answer {
	return writableBelow("/proc/sys", func(name string) bool {
		return slices.ContainsFunc(namespaced, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	})
}

func objects() answer {
	return writableBelow("/sys", func(name string) bool {
		// Thousands of files of the same kind; those in /sys/module and /sys/kernel stand for them.
		return strings.HasPrefix(name, "/sys/devices") || strings.HasPrefix(name, "/sys/kernel/slab") ||
			strings.HasPrefix(name, "/sys/kernel/debug") || strings.HasPrefix(name, "/sys/kernel/tracing")
	})
}

// walkLimit bounds the files looked at below one directory, in sorted order.
const walkLimit = 20_000

// writableBelow lists files that could be opened for writing. They are not opened: some act on it.
// The kernel is asked instead (faccessat), and the mode too, since root passes the former but the
// kernel's own files refuse what their mode does not allow.
func writableBelow(root string, skip func(string) bool) answer {
	if _, err := os.Stat(root); err != nil {
		return answer{value: "none", verdict: finding.Better, detail: err.Error()}
	}
	var found []string
	seen := 0
	err := fs.WalkDir(os.DirFS(root), ".", func(rel string, d fs.DirEntry, err error) error {
		name := path.Join(root, rel)
		if rel == "." && err != nil {
			return err
		}
		if err != nil || skip(name) {
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if seen++; seen > walkLimit {
			return fs.SkipAll
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil || info.Mode()&0o222 == 0 {
			return nil
		}
		if unix.Faccessat(unix.AT_FDCWD, name, unix.W_OK, unix.AT_EACCESS) == nil {
			found = append(found, name)
		}
		return nil
	})
	if err != nil {
		return unknown(err)
	}
	a := listed(found, "writable")
	if a.detail = fmt.Sprintf("%d files looked at", seen); seen > walkLimit {
		a.detail = fmt.Sprintf("the first %d files looked at", walkLimit)
	}
	return a
}
