package cell

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/host"
)

// What a cell may use of the host beyond its guest's memory.
const (
	// overheadMiB is for the process, and for the kernel's own of the virtual machine: page tables, in
	// proportion to the guest's memory, come on top.
	overheadMiB = 64
	// tasks is the number of threads beyond the vCPUs, and moreTasks that of each further cell in a process: KVM has one for a virtual
	// machine, and system calls that wait have others. The Go runtime ends a process that it cannot make
	// a thread for, so that this is far above what is seen.
	tasks, moreTasks = 64, 8
	// memoryMax is the file with the limit of memory, of version 2.
	memoryMax = "memory.max"
	// removePatience is how long a process that was killed may keep its group busy.
	removePatience = 5 * time.Second
)

// group is a cell's control group: a directory in each hierarchy that has one of the controllers.
type group struct {
	dirs   []string
	limits []string // for people

	memoryFile string // has the limit of memory; empty if there is none
	memory     int64  // that limit, in bytes
}

// setting is a value for a file of a group, in the words of both versions.
type setting struct {
	controller string
	v1, v2     string // file
	value      int64
	v2value    int64
	what       string
}

// share is what a cell may use of memory, in bytes, for a guest with so much of it.
func share(memoryMiB int) int64 { return int64(memoryMiB+memoryMiB/64+overheadMiB) << 20 }

// maxTasks is how many threads a process may have.
func maxTasks(vcpus, places int) int {
	cells := max(places, 1)
	return cells*vcpus + tasks + (cells-1)*moreTasks
}

// settings are for a process of one cell. With places, they are for one of as many cells, but for the memory, which each that comes
// brings with it.
func settings(vcpus, memoryMiB, places int) []setting {
	memory, threads := share(memoryMiB), maxTasks(vcpus, places)
	if places > 0 {
		memory, vcpus = overheadMiB<<20, vcpus*places
	}
	// A vCPU weighs as much as a group does by default. The kernel takes no larger numbers than these.
	const mostShares, mostWeight = 256 << 10, 10_000
	return []setting{
		{"memory", "memory.limit_in_bytes", memoryMax, memory, memory, fmt.Sprintf("%d MiB", memory>>20)},
		{"pids", "pids.max", "pids.max", int64(threads), int64(threads), fmt.Sprintf("%d tasks", threads)},
		{"cpu", "cpu.shares", "cpu.weight", min(int64(1024*vcpus), mostShares), min(int64(100*vcpus), mostWeight), fmt.Sprintf("CPU weight of %d", vcpus)},
	}
}

// newGroup makes a group, at the root of every hierarchy. When a limit cannot be set, the others hold,
// and the error says which. The group is to be removed whenever it is not nil.
func newGroup(id string, vcpus, memoryMiB, places int) (*group, error) {
	groups, err := host.Cgroups()
	if err != nil {
		return nil, err
	}
	if len(groups.Hierarchies) == 0 {
		return nil, errors.New("no control groups are mounted")
	}
	g := &group{}
	var errs []error
	for _, s := range settings(vcpus, memoryMiB, places) {
		if err := g.set(groups, id, s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.controller, err))
			continue
		}
		g.limits = append(g.limits, s.what)
	}
	return g, errors.Join(errs...)
}

// set makes the group where the controller is, unless it is there, and sets its limit.
func (g *group) set(groups host.Cgroup, id string, s setting) error {
	root, file, value := groups.Hierarchies[s.controller], s.v1, s.value
	if root == "" {
		if root = groups.Hierarchies[""]; root == "" {
			return errors.New("no such controller")
		}
		file, value = s.v2, s.v2value
		if err := enable(root, s.controller); err != nil {
			return err
		}
	}
	dir := filepath.Join(root, id)
	if !g.has(dir) {
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrExist) && unix.Rmdir(dir) == nil { // an owner was killed before it could
			err = os.Mkdir(dir, 0o755)
		}
		if err != nil {
			return err
		}
		g.dirs = append(g.dirs, dir)
	}
	path := filepath.Join(dir, file)
	if err := os.WriteFile(path, []byte(strconv.FormatInt(value, 10)), 0); err != nil {
		return err
	}
	if s.controller == "memory" {
		g.memoryFile, g.memory = path, value
	}
	return nil
}

// allow changes the limit of memory to what it was at first and so many bytes more.
func (g *group) allow(more int64) error {
	if g == nil || g.memoryFile == "" {
		return nil
	}
	return os.WriteFile(g.memoryFile, []byte(strconv.FormatInt(g.memory+more, 10)), 0)
}

// killed tells whether the kernel has killed a process because the group had reached its limit of memory.
func (g *group) killed() bool {
	if g == nil || g.memoryFile == "" {
		return false
	}
	file := "memory.events"
	if filepath.Base(g.memoryFile) != memoryMax {
		file = "memory.oom_control"
	}
	content, err := os.ReadFile(filepath.Join(filepath.Dir(g.memoryFile), file))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(content)) {
		name, count, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "oom_kill" {
			return count != "0"
		}
	}
	return false
}

func (g *group) has(dir string) bool {
	for _, d := range g.dirs {
		if d == dir {
			return true
		}
	}
	return false
}

// enable makes a controller of version 2 available to groups below root.
func enable(root, controller string) error {
	enabled, err := os.ReadFile(filepath.Join(root, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(enabled)) {
		if name == controller {
			return nil
		}
	}
	return os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+controller), 0)
}

// join moves a process into the group.
func (g *group) join(pid int) error {
	var errs []error
	for _, dir := range g.dirs {
		errs = append(errs, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0))
	}
	return errors.Join(errs...)
}

// describe names the limits.
func (g *group) describe() string {
	if g == nil {
		return ""
	}
	return strings.Join(g.limits, ", ")
}

// remove removes the group. The kernel refuses while a killed process is still ending.
func (g *group) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), removePatience)
	defer cancel()
	var errs []error
	for _, dir := range g.dirs {
		errs = append(errs, removeDir(ctx, dir))
	}
	return errors.Join(errs...)
}

func removeDir(ctx context.Context, dir string) error {
	for {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("remove control group %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove control group %s: %w", dir, err)
		case <-time.After(time.Millisecond):
		}
	}
}

// Sweep removes the control groups of cells whose IDs begin with prefix, and returns how many it has
// removed. It is for those of an owner that was killed: its cells die with it, their groups stay. A
// group whose process is still ending is waited for until ctx ends.
func Sweep(ctx context.Context, prefix string) (int, error) {
	groups, err := host.Cgroups()
	if err != nil {
		return 0, err
	}
	swept := map[string]bool{}
	var errs []error
	for _, root := range groups.Hierarchies {
		entries, err := os.ReadDir(root)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, e := range entries {
			if !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) {
				continue
			}
			if err := removeDir(ctx, filepath.Join(root, e.Name())); err != nil {
				errs = append(errs, err)
				continue
			}
			swept[e.Name()] = true
		}
	}
	return len(swept), errors.Join(errs...)
}
