package inside

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/aethervm/aether/internal/mountinfo"
	"github.com/aethervm/aether/internal/probe/finding"
)

func fileProbes() []entry {
	return []entry{
		{finding.Probe{Name: "files.host-paths", Scope: finding.ScopeSandbox,
			Question: "Are sockets or directories of the host's container engines and agents there (docker.sock, kubelet, ...)?",
			Better:   "No.",
			Worse:    "Yes: whoever reaches an engine's socket is root on the host."}, hostPaths},
		{finding.Probe{Name: "files.shares", Scope: finding.ScopeSandbox,
			Question: "Are directories of the host served into the sandbox (9p, virtiofs, FUSE, network file systems)?",
			Better:   "No: a disk image is a smaller interface than a file server.",
			Worse:    "Yes: a file server on the host answers to guest code."}, shares},
		{finding.Probe{Name: "files.mounts", Scope: finding.ScopeKernel,
			Question: "Does the list of mounts name paths of the host (bind mounts, layers of an overlay)?",
			Better:   "No.",
			Worse:    "Yes: it tells where on the host the guest's files lie, which some escapes need."}, mounts},
	}
}

// hostFiles are there only if someone has put the host's into the sandbox.
var hostFiles = []string{
	"/host", "/hostfs", "/rootfs",
	"/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/docker.sock", "/run/podman/podman.sock",
	"/run/libvirt/libvirt-sock", "/run/systemd/private", "/run/dbus/system_bus_socket",
	"/var/lib/aether", "/var/lib/containerd", "/var/lib/docker", "/var/lib/kubelet", "/var/run/docker.sock",
}

func hostPaths() answer {
	var found []string
	for _, name := range hostFiles {
		if _, err := os.Lstat(name); err == nil {
			found = append(found, name)
		}
	}
	return listed(found, "there")
}

// agentDir is where the judge itself has put the agent, which is not held against the sandbox.
const agentDir = "/.aether"

// mountTable reads this process's mounts, without the agent's.
func mountTable() ([]mountinfo.Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var list []mountinfo.Mount
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20) // an overlay of many layers has a long line
	for lines.Scan() {
		m, ok := mountinfo.Parse(lines.Text())
		if ok && m.Point != agentDir && !strings.HasPrefix(m.Point, agentDir+"/") {
			list = append(list, m)
		}
	}
	return list, lines.Err()
}

var sharedTypes = []string{"9p", "virtiofs", "vboxsf", "nfs", "nfs4", "cifs", "ceph"}

func shares() answer {
	list, err := mountTable()
	if err != nil {
		return unknown(err)
	}
	return listed(sharesOf(list), "mounted")
}

func sharesOf(list []mountinfo.Mount) []string {
	var found []string
	for _, m := range list {
		if slices.Contains(sharedTypes, m.Type) || m.Type == "fuse" || strings.HasPrefix(m.Type, "fuse.") {
			found = append(found, fmt.Sprintf("%s on %s", m.Type, m.Point))
		}
	}
	return found
}

func mounts() answer {
	list, err := mountTable()
	if err != nil {
		return unknown(err)
	}
	return listed(hostPathsOf(list), "paths")
}

// pseudoTypes are file systems whose root is no place on a disk.
var pseudoTypes = []string{"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "mqueue", "securityfs", "tracefs", "debugfs", "nsfs", "tmpfs"}

func hostPathsOf(list []mountinfo.Mount) []string {
	var found []string
	for _, m := range list {
		if m.Type == "overlay" {
			for _, o := range m.SuperOptions {
				key, value, _ := strings.Cut(o, "=")
				if (key == "lowerdir" || key == "upperdir" || key == "workdir") && strings.HasPrefix(value, "/") {
					found = append(found, fmt.Sprintf("%s of %s", key, m.Point))
				}
			}
			continue
		}
		if m.Root != "/" && !slices.Contains(pseudoTypes, m.Type) {
			found = append(found, fmt.Sprintf("%s of %s is %s", m.Point, m.Source, m.Root))
		}
	}
	return found
}
