package sandboxtest

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/hostdir"
)

// settleTime is how long the kernel and daemons may take to clean up behind a closed sandbox, on a busy host too.
const settleTime = time.Minute

// traces is what there is on the host that a sandbox could have left, one line a thing.
type traces map[string]bool

// look collects the host's state.
func (s *suite) look(t *testing.T) traces {
	t.Helper()
	found := traces{}
	for kind, list := range map[string]func() ([]string, error){
		"process":           processes,
		"mount":             mounts,
		"cgroup":            cgroups,
		"network namespace": netNamespaces,
		"interface":         func() ([]string, error) { return names("/sys/class/net") },
		"file":              runFiles,
	} {
		things, err := list()
		if err != nil {
			t.Fatalf("look for traces of kind %s: %v", kind, err)
		}
		for _, thing := range things {
			found[kind+" "+thing] = true
		}
	}
	if s.Traces != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		things, err := s.Traces(ctx)
		if err != nil {
			t.Fatalf("look for the system's own traces: %v", err)
		}
		for _, thing := range things {
			found[thing] = true
		}
	}
	return found
}

// checkNothingLeft fails the test if the host has something that it did not have before.
func (s *suite) checkNothingLeft(t *testing.T, before traces) {
	t.Helper()
	var left []string
	eventually(settleTime, func() bool {
		now := s.look(t)
		maps.DeleteFunc(now, func(thing string, _ bool) bool { return before[thing] })
		left = slices.Sorted(maps.Keys(now))
		return len(left) == 0
	})
	if len(left) > 0 {
		t.Errorf("left behind:\n\t%s", strings.Join(left, "\n\t"))
	}
}

// process is a process of the host that looks as if it belonged to a sandbox.
type process struct{ dir, name string }

// sandboxProcesses finds processes by their own name, by what aether calls its machines, or by a
// path of aether's run directory on their command line. Others come and go on any host.
func sandboxProcesses() ([]process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	root, err := hostdir.Run()
	if err != nil {
		return nil, err
	}
	var list []process
	for _, dir := range dirs {
		comm, err1 := os.ReadFile(filepath.Join(dir, "comm"))
		cmdline, err2 := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err1 != nil || err2 != nil { // gone
			continue
		}
		program, arguments, _ := strings.Cut(string(cmdline), "\x00")
		name := strings.TrimSpace(string(comm)) + " " + program
		if ofSandbox(name) || strings.Contains(arguments, root+"/") || strings.Contains(arguments, "-name\x00aether-") {
			list = append(list, process{dir, name})
		}
	}
	return list, nil
}

func ofSandbox(name string) bool {
	for _, mark := range []string{"runsc", "containerd-shim", "runc", "aether-agent", "aether-cell", "/.aether/"} {
		if strings.Contains(name, mark) {
			return true
		}
	}
	return false
}

func processes() ([]string, error) {
	found, err := sandboxProcesses()
	var list []string
	for _, p := range found {
		list = append(list, filepath.Base(p.dir)+" "+p.name)
	}
	return list, err
}

func mounts() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			list = append(list, fields[4])
		}
	}
	return list, nil
}

// cgroups lists the control groups but those of other programs of this host, which come and go: they have processes, all in the
// tests' own PID namespace, and none looks as if it belonged to a sandbox.
func cgroups() ([]string, error) {
	found, err := sandboxProcesses()
	if err != nil {
		return nil, err
	}
	ours, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	sandboxed := func(pid string) bool {
		dir := filepath.Join("/proc", pid)
		namespace, err := os.Readlink(filepath.Join(dir, "ns/pid"))
		return err == nil && namespace != ours || slices.ContainsFunc(found, func(p process) bool { return p.dir == dir })
	}
	var list []string
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // removed while we walk
		}
		pids, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if inside := strings.Fields(string(pids)); err != nil || len(inside) == 0 || slices.ContainsFunc(inside, sandboxed) {
			list = append(list, path)
		}
		return nil
	})
	return list, err
}

// netNamespaces lists the network namespaces that such a process is in or that have a name. One that
// is kept by neither is kept by a mount, and seen there.
func netNamespaces() ([]string, error) {
	found, err := sandboxProcesses()
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, p := range found {
		if target, err := os.Readlink(filepath.Join(p.dir, "ns/net")); err == nil {
			seen[target] = true
		}
	}
	named, err := names("/run/netns")
	return append(slices.Sorted(maps.Keys(seen)), named...), err
}

func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list, err
}

// runFiles lists everything below aether's run directory but the directories of its systems.
func runFiles() ([]string, error) {
	root, err := hostdir.Run()
	if err != nil {
		return nil, err
	}
	var list []string
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // removed while we walk, or not there at all
		}
		if rel, _ := filepath.Rel(root, path); strings.Contains(rel, "/") {
			list = append(list, path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("walk %s: %w", root, err)
	}
	return list, nil
}
