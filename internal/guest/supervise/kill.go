package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// killPatience bounds the killing of a tree. Only a process stuck in the kernel outlasts it.
const killPatience = 10 * time.Second

// killTree kills all descendants of this process and returns when they are reaped.
//
// They are first stopped, again and again until no new one shows up: a stopped process cannot fork,
// so a fork bomb comes to rest before the killing starts. Since this process is a subreaper nobody
// can leave the tree.
func killTree(allEnded <-chan struct{}) {
	deadline := time.Now().Add(killPatience)
	for time.Now().Before(deadline) {
		stopped := map[int]bool{}
		for range 100 {
			fresh := false
			for _, pid := range descendants(os.Getpid()) {
				if !stopped[pid] {
					stopped[pid], fresh = true, true
					_ = unix.Kill(pid, unix.SIGSTOP)
				}
			}
			if !fresh {
				break
			}
		}
		for pid := range stopped {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		select {
		case <-allEnded:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// descendants lists the processes below root, from one pass over /proc.
func descendants(root int) []int {
	children := map[int][]int{}
	eachProcess(func(pid int) {
		if ppid, ok := parentOf(pid); ok {
			children[ppid] = append(children[ppid], pid)
		}
	})
	var all []int
	for next := []int{root}; len(next) > 0; {
		kids := children[next[0]]
		all = append(all, kids...)
		next = append(next[1:], kids...)
	}
	return all
}

// parentOf reads the parent of a process. The name in /proc/PID/stat may hold anything, so fields
// are counted from the last ")".
func parentOf(pid int) (int, bool) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, false
	}
	return parseParent(stat)
}

func parseParent(stat []byte) (int, bool) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0, false
	}
	ppid, err := strconv.Atoi(string(fields[1]))
	return ppid, err == nil
}

func eachProcess(f func(pid int)) {
	dir, err := os.Open("/proc")
	if err != nil {
		return
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return
	}
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			f(pid)
		}
	}
}

// Kill ends the run id with all its descendants and returns when they are gone. A run that is only
// about to start will find a mark and not start. A run that has ended is no error.
func Kill(id string) error {
	if err := writeScratch("kill", id, nil); err != nil {
		return fmt.Errorf("kill %s: %w", id, err)
	}
	supervisors := find(id)
	if len(supervisors) == 0 {
		return nil // the mark stays: it may be about to start
	}
	for _, pid := range supervisors {
		if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill %s: %w", id, err)
		}
	}
	for deadline := time.Now().Add(killPatience + time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if len(find(id)) == 0 {
			takeMark(id)
			return nil
		}
	}
	return fmt.Errorf("kill %s: still running after %v", id, killPatience)
}

// find returns the supervisors of a run by their command line.
func find(id string) []int {
	want := []byte("\x00exec\x00--id\x00" + id + "\x00")
	var pids []int
	eachProcess(func(pid int) {
		cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err == nil && pid != os.Getpid() && bytes.Contains(cmdline, want) {
			pids = append(pids, pid)
		}
	})
	slices.Sort(pids)
	return pids
}
