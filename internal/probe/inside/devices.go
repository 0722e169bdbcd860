package inside

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/probe/finding"
)

func deviceProbes() []entry {
	return []entry{
		{finding.Probe{Name: "devices.nodes", Scope: finding.ScopeKernel,
			Question: "Which device nodes are there beyond those that every program may need (null, zero, full, random, urandom, tty, ptmx, pts, console)?",
			Better:   "None.",
			Worse:    "Any: each leads to a driver in the host's kernel."}, deviceNodes},
		{finding.Probe{Name: "devices.open", Scope: finding.ScopeKernel,
			Question: "Which of the dangerous devices (memory, disks, kvm, fuse, tun, vhost, loop, ...) open?",
			Better:   "None.",
			Worse:    "Any: a disk or memory device is the host itself; the others are large, privileged interfaces."}, devicesOpen},
	}
}

// safeDevices need no privilege and hold nothing of the machine.
var safeDevices = []string{"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"}

// safeDirs hold terminals and shared memory of the sandbox's own.
var safeDirs = []string{"pts", "shm", "mqueue", "fd"}

// devices returns the nodes below /dev that are not safe, by path, with the type.
func devices() (map[string]fs.FileMode, error) {
	const root = "/dev"
	found := map[string]fs.FileMode{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch rel := strings.TrimPrefix(name, root+"/"); {
		case err != nil && name == root:
			return err
		case err != nil:
			return nil
		case d.IsDir() && slices.Contains(safeDirs, rel):
			return fs.SkipDir
		case d.Type()&fs.ModeDevice != 0 && !slices.Contains(safeDevices, rel):
			// A null device under another name hides what would be there.
			if info, err := d.Info(); err == nil && !isNull(info) {
				found[name] = d.Type()
			}
		}
		return nil
	})
	return found, err
}

func deviceNodes() answer {
	nodes, err := devices()
	if err != nil {
		return unknown(err)
	}
	var names []string
	for name := range nodes {
		names = append(names, name)
	}
	return listed(names, "present")
}

// openable are devices that do nothing when they are opened for reading and closed again. Others
// are never opened: a watchdog restarts the machine, a tape rewinds.
var openable = []string{
	"btrfs-control", "fuse", "hpet", "kmem", "kmsg", "kvm", "loop-control", "mapper/control", "mem",
	"net/tun", "port", "userfaultfd", "vfio/vfio", "vhost-net", "vhost-vsock", "vsock",
}

// blockPrefixes are the names of disks and partitions.
var blockPrefixes = []string{"dm-", "loop", "md", "nvme", "sd", "vd", "xvd", "zram"}

func devicesOpen() answer {
	nodes, err := devices()
	if err != nil {
		return unknown(err)
	}
	var open []string
	for name, typ := range nodes {
		rel := strings.TrimPrefix(name, "/dev/")
		disk := typ&fs.ModeCharDevice == 0 && slices.ContainsFunc(blockPrefixes, func(p string) bool { return strings.HasPrefix(path.Base(rel), p) })
		if !disk && !slices.Contains(openable, rel) {
			continue
		}
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		_ = f.Close()
		open = append(open, name)
	}
	return listed(open, "open")
}
