package inside

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/aethervm/aether/internal/probe/finding"
)

func processProbes() []entry {
	return []entry{
		{finding.Probe{Name: "processes.foreign", Scope: finding.ScopeKernel,
			Question: "Are processes visible that are not the sandbox's own?",
			Better:   "No.",
			Worse:    "Yes: their arguments and environment leak, and they can be signalled."}, foreignProcesses},
	}
}

type process struct {
	pid, parent int
	name        string
}

func foreignProcesses() answer {
	all, err := processes()
	if err != nil {
		return unknown(err)
	}
	// Where the agent is process 1, this is a PID namespace of the sandbox's own, and what runs in
	// it has been started by the agent.
	first, firstErr := os.Stat("/proc/1/exe")
	self, selfErr := os.Stat(selfPath())
	if firstErr == nil && selfErr == nil && os.SameFile(first, self) {
		return answer{value: "none", verdict: finding.Better, detail: fmt.Sprintf("process 1 is the sandbox's own agent; %d visible", len(all))}
	}
	var names []string
	for _, p := range foreign(all, os.Getpid()) {
		names = append(names, fmt.Sprintf("%d %s", p.pid, p.name))
	}
	a := listed(names, "visible")
	a.detail = "those that are neither ancestors nor descendants of the probe"
	return a
}

// foreign returns what is neither an ancestor nor a descendant of pid.
func foreign(all []process, pid int) []process {
	parent := map[int]int{}
	for _, p := range all {
		parent[p.pid] = p.parent
	}
	ancestor := func(of, candidate int) bool {
		for range len(all) + 1 { // a table read while it changes may hold a cycle
			if of == candidate {
				return true
			}
			if of = parent[of]; of == 0 {
				return false
			}
		}
		return false
	}
	return slices.DeleteFunc(slices.Clone(all), func(p process) bool {
		return ancestor(pid, p.pid) || ancestor(p.pid, pid)
	})
}

func processes() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var list []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil { // it has ended meanwhile
			continue
		}
		if p, ok := parseStat(stat); ok && p.pid == pid {
			list = append(list, p)
		}
	}
	return list, nil
}

// parseStat reads the start of /proc/PID/stat. The name stands in parentheses and may itself hold
// blanks and parentheses.
func parseStat(stat []byte) (process, bool) {
	open, closing := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 1 || closing < open {
		return process{}, false
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(stat[:open])))
	rest := bytes.Fields(stat[closing+1:])
	if err != nil || len(rest) < 2 {
		return process{}, false
	}
	parent, err := strconv.Atoi(string(rest[1]))
	return process{pid: pid, parent: parent, name: string(stat[open+1 : closing])}, err == nil
}
