package gvisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// group is a cgroup of one sandbox, by its name at the root of every hierarchy. Groups are not
// nested: a common parent could not be removed without racing against another process that is just
// making a group in it.
type group string

const groupPrefix = "aether-gvisor-"

func groupFor(leaseID, id string) group { return group(groupPrefix + leaseID + "-" + id) }

// path is the group as an OCI cgroupsPath.
func (g group) path() string { return "/" + string(g) }

// groupsOf returns a function that lists the groups of a lease that exist.
func groupsOf(leaseID string) func() []group {
	return func() []group {
		var list []group
		for _, h := range hierarchies() {
			matches, _ := filepath.Glob(filepath.Join(h, groupPrefix+leaseID+"-*")) // the pattern is good
			for _, m := range matches {
				if g := group(filepath.Base(m)); !slices.Contains(list, g) {
					list = append(list, g)
				}
			}
		}
		return list
	}
}

// only returns a function that lists just g.
func only(g group) func() []group { return func() []group { return []group{g} } }

// unified tells whether the host has cgroup version 2 only.
func unified() bool {
	var st unix.Statfs_t
	return unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// hierarchies lists the roots of the cgroup hierarchies: one with version 2, else one a controller.
func hierarchies() []string {
	if unified() {
		return []string{cgroupRoot}
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil
	}
	var roots []string
	for _, e := range entries {
		if e.IsDir() { // links ("cpu" to "cpu,cpuacct") lead to one that is listed too
			roots = append(roots, filepath.Join(cgroupRoot, e.Name()))
		}
	}
	return roots
}

// dirs lists the group's directories that exist.
func (g group) dirs() []string {
	var list []string
	for _, h := range hierarchies() {
		dir := filepath.Join(h, string(g))
		if _, err := os.Stat(dir); err == nil {
			list = append(list, dir)
		}
	}
	return list
}

// procs lists the processes in the group, by their PID on the host.
func (g group) procs() []int {
	var pids []int
	for _, dir := range g.dirs() {
		content, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue
		}
		pids = append(pids, parsePIDs(content)...)
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// kill sends SIGKILL to every process in the group and tells whether there was one. Nobody but the
// sandbox's own processes is ever in it, so a PID read here is one of theirs unless it ended and
// came back within microseconds.
func (g group) kill() bool {
	pids := g.procs()
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL) // gone already
	}
	return len(pids) > 0
}

// remove removes the group everywhere. The kernel refuses while a killed process is still ending.
func (g group) remove(ctx context.Context) error {
	for {
		var errs []error
		for _, dir := range g.dirs() {
			if err := removeTree(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		if len(errs) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup: %w", errors.Join(errs...))
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// removeTree removes a cgroup directory and the groups below it; the files in it are the kernel's.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(dir)
}

// outOfMemory tells whether the kernel has killed a process of the group for want of memory.
func (g group) outOfMemory() bool {
	for _, dir := range g.dirs() {
		for _, name := range []string{"memory.oom_control", "memory.events"} { // version 1, version 2
			content, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil && parseOOMKills(content) > 0 {
				return true
			}
		}
	}
	return false
}

// memoryLimit returns the limit in force in bytes; 0 if there is none.
func (g group) memoryLimit() int64 {
	for _, dir := range g.dirs() {
		for _, name := range []string{"memory.limit_in_bytes", "memory.max"} { // version 1, version 2
			content, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				continue
			}
			if n, err := strconv.ParseInt(string(bytes.TrimSpace(content)), 10, 64); err == nil {
				return n
			}
		}
	}
	return 0
}

// limitsSwap tells whether the kernel accounts for swap.
func limitsSwap() bool {
	if unified() {
		return true
	}
	_, err := os.Stat(filepath.Join(cgroupRoot, "memory", "memory.memsw.limit_in_bytes"))
	return err == nil
}

// parsePIDs reads a list of PIDs, one a line.
func parsePIDs(content []byte) []int {
	var pids []int
	for line := range bytes.Lines(content) {
		if pid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil && pid > 1 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parseOOMKills reads the count of kills from memory.oom_control or memory.events.
func parseOOMKills(content []byte) uint64 {
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) == 2 && fields[0] == "oom_kill" {
			n, _ := strconv.ParseUint(fields[1], 10, 64) // 0 if it is no number
			return n
		}
	}
	return 0
}
