package outside

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/aethervm/aether/internal/host"
)

// Limits are the cgroup limits on a process that do not bind the judge as well; 0 means none.
type Limits struct {
	MemoryBytes int64 `json:"memory_bytes,omitempty"`
	Processes   int64 `json:"processes,omitempty"`
}

// LimitsOf reads the limits in force on a process: the tightest of its cgroup and those above it,
// as far up as they are not the judge's own too.
func LimitsOf(pid int) (Limits, error) {
	theirs, err := memberships(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return Limits{}, err
	}
	ours, err := memberships("/proc/self/cgroup")
	if err != nil {
		return Limits{}, fmt.Errorf("this process's own cgroups: %w", err)
	}
	groups, err := host.Cgroups()
	if err != nil {
		return Limits{}, fmt.Errorf("find the cgroups: %w", err)
	}
	var l Limits
	for _, source := range []struct {
		controller, file string
		to               *int64
	}{
		{"memory", "memory.limit_in_bytes", &l.MemoryBytes},
		{"", "memory.max", &l.MemoryBytes},
		{"pids", "pids.max", &l.Processes},
		{"", "pids.max", &l.Processes},
	} {
		mount, mounted := groups.Hierarchies[source.controller]
		group, member := theirs[source.controller]
		if !mounted || !member {
			continue
		}
		n, err := tightest(mount, group, ours[source.controller], source.file)
		if err != nil {
			return Limits{}, err
		}
		if n > 0 && (*source.to == 0 || n < *source.to) {
			*source.to = n
		}
	}
	return l, nil
}

// memberships reads a cgroup file: the group's path by v1 controller, and by "" for v2.
func memberships(name string) (map[string]string, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return parseMemberships(string(text)), nil
}

func parseMemberships(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 || !strings.HasPrefix(parts[2], "/") {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			m[controller] = parts[2]
		}
	}
	return m
}

// tightest reads file in group and the groups above it, up to the first that holds the judge's own
// group too, and returns the smallest limit; 0 means none.
func tightest(mount, group, own, file string) (int64, error) {
	// A group outside this process's cgroup namespace is shown relative to it; its files cannot be
	// reached through the mount.
	if strings.HasPrefix(group, "/..") {
		return 0, fmt.Errorf("cgroup %s lies outside this process's view", group)
	}
	var smallest int64
	for dir := path.Clean(group); dir != "/" && !within(own, dir); dir = path.Dir(dir) {
		text, err := os.ReadFile(path.Join(mount, dir, file))
		if errors.Is(err, fs.ErrNotExist) { // the controller is not switched on there
			continue
		}
		if err != nil {
			return 0, err
		}
		if n := parseLimit(string(text)); n > 0 && (smallest == 0 || n < smallest) {
			smallest = n
		}
	}
	return smallest, nil
}

// within tells whether a group is dir or lies below it.
func within(group, dir string) bool {
	return group == dir || strings.HasPrefix(group, dir+"/")
}

// parseLimit reads a limit; "max", and the number as which v1 writes that, are none.
func parseLimit(text string) int64 {
	const unlimited = 1 << 60 // v1 writes the largest multiple of the page size
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || n <= 0 || n >= unlimited {
		return 0
	}
	return n
}
