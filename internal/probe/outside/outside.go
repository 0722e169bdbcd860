// Package outside asks, from the host, what confines the processes that run guest code. If guest
// code takes over such a process, what holds it is all that is left: the user it runs as, its
// capabilities, system call filter, namespaces, cgroups, and what it has open.
//
// It only reads /proc and /sys/fs/cgroup.
package outside

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/probe/finding"
	"github.com/aethervm/aether/sandbox"
)

// answer is what one probe found about one process.
type answer struct {
	value   string
	verdict finding.Verdict
	detail  string
	items   []string
}

func better(value, detail string) answer { return answer{value, finding.Better, detail, nil} }
func worse(value, detail string) answer  { return answer{value, finding.Worse, detail, nil} }
func unknown(detail string) answer       { return answer{"unknown", finding.Unknown, detail, nil} }

// entry is a probe: its documentation and the function that asks about one process.
type entry struct {
	finding.Probe
	ask func(*process) (answer, error)
}

func table() []entry {
	return slices.Concat(privilegeProbes(), namespaceProbes(), resourceProbes())
}

// Probes documents all probes in the order in which they are asked.
func Probes() []finding.Probe {
	var list []finding.Probe
	for _, e := range table() {
		list = append(list, e.Probe)
	}
	return list
}

// Look asks about every host process that runs guest code of sb. Of several processes the one that
// is held worst decides. What cannot be found out is an unknown finding; the error is for a sandbox
// that could not say which its processes are.
func Look(ctx context.Context, sb sandbox.Sandbox) ([]finding.Finding, error) {
	inspector, ok := sb.(sandbox.Inspector)
	if !ok {
		return allUnknown("the driver does not say which host processes run guest code"), nil
	}
	processes, err := inspector.HostProcesses(ctx)
	if err != nil {
		return nil, fmt.Errorf("find the processes that run guest code: %w", err)
	}
	return LookAt(GuestPIDs(processes)), nil
}

// GuestPIDs picks the processes that run guest code.
func GuestPIDs(processes []sandbox.HostProcess) []int {
	var pids []int
	for _, p := range processes {
		if p.Role == sandbox.RoleGuest {
			pids = append(pids, p.PID)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// LookAt asks about the processes with the given IDs.
func LookAt(pids []int) []finding.Finding {
	var list []*process
	var gone []string
	for _, pid := range pids {
		p, err := open(pid)
		if err != nil {
			gone = append(gone, err.Error())
			continue
		}
		list = append(list, p)
	}
	if len(list) == 0 {
		return allUnknown(strings.Join(append([]string{"no process that runs guest code was found"}, gone...), "; "))
	}
	var findings []finding.Finding
	for _, e := range table() {
		findings = append(findings, merge(e, list))
	}
	return findings
}

func allUnknown(why string) []finding.Finding {
	var list []finding.Finding
	for _, e := range table() {
		list = append(list, finding.Finding{Name: e.Name, Value: "unknown", Verdict: finding.Unknown, Detail: why})
	}
	return list
}

// merge asks about each process and keeps the worst answer.
func merge(e entry, list []*process) finding.Finding {
	rank := map[finding.Verdict]int{finding.Better: 0, finding.Unknown: 1, finding.Worse: 2}
	var result answer
	asked := false
	for _, p := range list {
		a, err := e.ask(p)
		if ended(err) {
			continue
		}
		if err != nil {
			a = unknown(err.Error())
		}
		if len(list) > 1 {
			a.detail = strings.TrimSuffix(fmt.Sprintf("process %d: %s", p.pid, a.detail), ": ")
		}
		if !asked || rank[a.verdict] > rank[result.verdict] {
			result, asked = a, true
		}
	}
	if !asked {
		result = unknown("the processes ended meanwhile")
	}
	items, more := finding.Clip(result.items)
	if more != "" {
		result.detail += "; " + more
	}
	return finding.Finding{Name: e.Name, Value: result.value, Verdict: result.verdict, Detail: result.detail, Items: items}
}

// ended tells whether an error of reading /proc/PID means that the process is no more.
func ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}
