package docker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

// HostProcesses is Inspector.HostProcesses: what is in the container's cgroup, and its shim.
func (s *Sandbox) HostProcesses(ctx context.Context) ([]sandbox.HostProcess, error) {
	ctx, stop, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	found, err := s.eng.cli.ContainerInspect(ctx, s.container, client.ContainerInspectOptions{})
	if err != nil {
		return nil, s.fail(ctx, "inspect", err)
	}
	state := found.Container.State
	if state == nil || !state.Running || state.Pid <= 0 {
		return nil, s.fail(ctx, "inspect", errors.New("container is not running"))
	}
	pids, err := cgroupProcesses(state.Pid)
	if err != nil {
		return nil, s.fail(ctx, "inspect", err)
	}
	var all []sandbox.HostProcess
	for _, pid := range pids {
		role := sandbox.RoleGuest
		if servesOnly(commandName(pid)) {
			role = sandbox.RoleHelper
		}
		all = append(all, sandbox.HostProcess{PID: pid, Role: role})
	}
	// The shim is the parent of the first process and stands outside the cgroup.
	if shim := parent(state.Pid); strings.HasPrefix(commandName(shim), "containerd-shim") && !slices.Contains(pids, shim) {
		all = append(all, sandbox.HostProcess{PID: shim, Role: sandbox.RoleHelper})
	}
	return all, nil
}

// servesOnly tells by its name whether a process in a container's cgroup runs no guest code. Such
// there are with other runtimes than runc: gVisor's file server and Kata's.
func servesOnly(command string) bool {
	return strings.Contains(command, "gofer") || strings.HasPrefix(command, "virtiofsd")
}

// Daemons is DaemonInspector.Daemons: the engine and its containerd.
func (d *Driver) Daemons(ctx context.Context) ([]sandbox.HostProcess, error) {
	eng, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	dockerd, err := listener(ctx, eng.path)
	if err != nil {
		return nil, eng.fail(ctx, "inspect", "", err)
	}
	pids := []int{dockerd}
	if commandName(dockerd) != "dockerd" {
		// The socket was opened by an init system, on dockerd's behalf.
		if pids = processesNamed("dockerd"); len(pids) != 1 {
			return nil, &sandbox.Error{Op: "inspect", System: system, Err: sandbox.ErrUnsupported,
				Detail: fmt.Sprintf("%d processes are called dockerd, and the socket does not tell which one serves it", len(pids))}
		}
	}
	// Its own containerd, or else the machine's.
	var shared []int
	for _, pid := range processesNamed("containerd") {
		switch parent(pid) {
		case pids[0]:
			pids = append(pids, pid)
		case 1:
			shared = append(shared, pid)
		}
	}
	if len(pids) == 1 {
		pids = append(pids, shared...)
	}
	all := make([]sandbox.HostProcess, len(pids))
	for i, pid := range pids {
		all[i] = sandbox.HostProcess{PID: pid, Role: sandbox.RoleDaemon}
	}
	return all, nil
}

// listener returns the process that listens on a Unix socket.
func listener(ctx context.Context, path string) (int, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, os.NewSyscallError("getsockopt", credErr)
	}
	return int(cred.Pid), nil
}

// cgroupProcesses lists the processes in the cgroup of pid and below it.
func cgroupProcesses(pid int) ([]int, error) {
	membership, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, dir := range cgroupDirs(membership) {
		pids, err := processesIn(dir)
		if err == nil && slices.Contains(pids, pid) {
			return pids, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("find the cgroup of process %d: %w", pid, errors.Join(errs...))
}

// cgroupDirs lists the directories that may be the cgroup of a process, by its /proc/PID/cgroup: in
// the unified hierarchy, or in the one of a controller that every container has.
func cgroupDirs(membership []byte) []string {
	var dirs []string
	lines := bufio.NewScanner(bytes.NewReader(membership))
	for lines.Scan() {
		parts := strings.SplitN(lines.Text(), ":", 3)
		if len(parts) != 3 || !strings.HasPrefix(parts[2], "/") {
			continue
		}
		path := filepath.Clean(parts[2])
		if path == "/" {
			continue // no container's own
		}
		switch parts[1] {
		case "":
			dirs = append(dirs, filepath.Join("/sys/fs/cgroup", path), filepath.Join("/sys/fs/cgroup/unified", path))
		case "pids", "memory", "devices":
			dirs = append(dirs, filepath.Join("/sys/fs/cgroup", parts[1], path))
		}
	}
	return dirs
}

func processesIn(dir string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		list, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return err
		}
		for field := range strings.FieldsSeq(string(list)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

func processesNamed(name string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil && commandName(pid) == name {
			pids = append(pids, pid)
		}
	}
	return pids
}

// commandName is the base name of the program of a process, by its command line where there is one:
// the kernel's own record ends at 15 bytes. It is empty for a process that is gone.
func commandName(pid int) string {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	if cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil && len(cmdline) > 0 {
		first, _, _ := bytes.Cut(cmdline, []byte{0})
		return filepath.Base(string(first))
	}
	comm, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(comm))
}

// parent returns the parent of a process, 0 if that is not known.
func parent(pid int) int {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	return parseParent(stat)
}

// parseParent reads a /proc/PID/stat. The name in it may hold anything, so fields are counted from
// the last ")".
func parseParent(stat []byte) int {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0
	}
	ppid, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0
	}
	return ppid
}
