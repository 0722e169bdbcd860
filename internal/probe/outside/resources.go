package outside

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/aethervm/aether/internal/probe/finding"
)

func resourceProbes() []entry {
	return []entry{
		{finding.Probe{Name: "process.memory-limit", Scope: finding.ScopeHost,
			Question: "Does a cgroup of the sandbox's own bound its memory?",
			Better:   "Yes: it cannot take the host's or its neighbours'.",
			Worse:    "No."},
			func(p *process) (answer, error) {
				return limit(p, func(l Limits) string { return sizeOf(l.MemoryBytes) })
			}},
		{finding.Probe{Name: "process.process-limit", Scope: finding.ScopeHost,
			Question: "Does a cgroup of the sandbox's own bound its processes and threads?",
			Better:   "Yes: it cannot use up the host's process IDs.",
			Worse:    "No."},
			func(p *process) (answer, error) {
				return limit(p, func(l Limits) string { return countOf(l.Processes) })
			}},
		{finding.Probe{Name: "process.files", Scope: finding.ScopeHost,
			Question: "Has it directories of the host, or devices beyond harmless ones and those of virtual machines, open?",
			Better:   "None.",
			Worse:    "Any: an open directory is a way around its root, an open disk is the disk."}, files},
	}
}

func sizeOf(bytes int64) string {
	if bytes == 0 {
		return ""
	}
	return fmt.Sprintf("%d MiB", bytes>>20)
}

func countOf(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func limit(p *process, text func(Limits) string) (answer, error) {
	l, err := LimitsOf(p.pid)
	if err != nil {
		return answer{}, err
	}
	if value := text(l); value != "" {
		return better(value, ""), nil
	}
	return worse("none", ""), nil
}

// harmlessDevices may be open in any process; machineDevices are what a virtual machine monitor
// works with.
var (
	harmlessDevices = []string{"full", "null", "ptmx", "random", "tty", "urandom", "zero"}
	machineDevices  = []string{"kvm", "net/tun", "userfaultfd", "vhost-net", "vhost-vsock"}
)

func files(p *process) (answer, error) {
	entries, err := os.ReadDir(p.path("fd"))
	if err != nil {
		return answer{}, err
	}
	hostRoot, err := p.hostRoot()
	if err != nil {
		return answer{}, err
	}
	var bad []string
	for _, e := range entries {
		fd := path.Join("fd", e.Name())
		target, err := os.Readlink(p.path(fd))
		if err != nil || !strings.HasPrefix(target, "/") { // closed meanwhile, or a pipe, a socket, ...
			continue
		}
		id, info, err := identify(p.path(fd))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return answer{}, err
		}
		switch {
		case info.IsDir():
			// A directory is the sandbox's own where the same name leads to it from its root.
			own, _, err := identify(p.path(path.Join("root", target)))
			if hostRoot || err != nil || own != id {
				bad = append(bad, "directory "+target)
			}
		case info.Mode()&fs.ModeDevice != 0 && !usualDevice(target):
			bad = append(bad, "device "+target)
		}
	}
	if len(bad) == 0 {
		return better("none", fmt.Sprintf("%d files open", len(entries))), nil
	}
	slices.Sort(bad)
	bad = slices.Compact(bad)
	return answer{fmt.Sprintf("%d open", len(bad)), finding.Worse, "", bad}, nil
}

func usualDevice(name string) bool {
	rel, ok := strings.CutPrefix(name, "/dev/")
	if !ok { // its own mount of a device: judged by the last element
		rel = path.Base(name)
	}
	return slices.Contains(harmlessDevices, rel) || slices.Contains(machineDevices, rel) || strings.HasPrefix(rel, "pts/") || name == "/null"
}
