package outside

import (
	"fmt"
	"os"
	"syscall"

	"github.com/aethervm/aether/internal/probe/finding"
)

func namespaceProbes() []entry {
	var list []entry
	for _, ns := range []struct{ file, what, gain string }{
		{"mnt", "mount", "the host's files are out of its sight"},
		{"pid", "PID", "the host's processes are out of its reach"},
		{"net", "network", "the host's network and local services are"},
		{"ipc", "IPC", "shared memory and queues of the host are"},
		{"uts", "UTS", "it cannot rename the host"},
		{"user", "user", "its privileges count for nothing outside"},
		{"cgroup", "cgroup", "it does not see where it stands in the host's cgroups"},
	} {
		list = append(list, entry{finding.Probe{Name: "process.namespace-" + ns.file, Scope: finding.ScopeHost,
			Question: "Is it in a " + ns.what + " namespace other than the judge's?",
			Better:   "Yes: " + ns.gain + ".",
			Worse:    "No."},
			func(p *process) (answer, error) {
				differs, err := p.otherNamespace(ns.file)
				switch {
				case err != nil:
					return answer{}, err
				case differs:
					return better("its own", ""), nil
				}
				return worse("the host's", ""), nil
			}})
	}
	return append(list, entry{finding.Probe{Name: "process.root", Scope: finding.ScopeHost,
		Question: "Is its root directory other than the host's?",
		Better:   "Yes: files of the host have no name for it.",
		Worse:    "No."}, root})
}

// otherNamespace tells whether p is in another namespace of the kind than this process.
func (p *process) otherNamespace(kind string) (bool, error) {
	theirs, err := os.Readlink(p.path("ns/" + kind))
	if err != nil {
		return false, err
	}
	ours, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		return false, fmt.Errorf("this process's own namespaces: %w", err)
	}
	return theirs != ours, nil
}

// fileID names a file on this kernel. The device number alone would not do: bind mounts share it.
type fileID struct{ dev, ino uint64 }

func identify(name string) (fileID, os.FileInfo, error) {
	info, err := os.Stat(name)
	if err != nil {
		return fileID{}, nil, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, nil, fmt.Errorf("stat %s: no inode", name)
	}
	return fileID{stat.Dev, stat.Ino}, info, nil
}

// hostRoot tells whether p's root directory is the judge's. The link's text says "/" for every
// process in a mount namespace of its own, so the directories themselves are compared.
func (p *process) hostRoot() (bool, error) {
	theirs, _, err := identify(p.path("root/."))
	if err != nil {
		return false, err
	}
	ours, _, err := identify("/.")
	if err != nil {
		return false, fmt.Errorf("this process's own root: %w", err)
	}
	return theirs == ours, nil
}

func root(p *process) (answer, error) {
	same, err := p.hostRoot()
	switch {
	case err != nil:
		return answer{}, err
	case same:
		return worse("the host's", ""), nil
	}
	return better("its own", ""), nil
}
