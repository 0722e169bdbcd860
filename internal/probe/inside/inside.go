// Package inside asks, from within a sandbox, what guest code can see and reach.
//
// It runs as `aether-agent probe` in whatever the sandbox is: a container, a user-space kernel, a
// virtual machine, or (in tests) no sandbox at all, as root. Nothing it does may change anything
// outside its own short-lived processes: system calls get arguments that the kernel refuses before
// it acts, files are opened without being written or truncated, devices are opened only where
// opening has no effect, and no packet is sent.
//
// A probe knows only what it sees; what that means for the host is judged outside, where the host's
// own facts are known (see package probe).
package inside

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/aethervm/aether/internal/probe/finding"
)

// askLimit bounds one probe. The slowest, the system calls, takes some 50 ms on bare metal.
const askLimit = 20 * time.Second

// answer is a finding without the name, which the table supplies.
type answer struct {
	value   string
	verdict finding.Verdict
	detail  string
	items   []string
}

func unknown(err error) answer {
	return answer{value: "unknown", verdict: finding.Unknown, detail: err.Error()}
}

// entry is a probe: its documentation and the function that asks.
type entry struct {
	finding.Probe
	ask func() answer
}

func table() []entry {
	var t []entry
	for _, part := range [][]entry{
		kernelProbes(), interfaceProbes(), syscallProbes(), deviceProbes(), fileProbes(),
		processProbes(), networkProbes(), privilegeProbes(), namespaceProbes(),
	} {
		t = append(t, part...)
	}
	return t
}

// Probes documents all probes in the order in which they are asked.
func Probes() []finding.Probe {
	var list []finding.Probe
	for _, e := range table() {
		list = append(list, e.Probe)
	}
	return list
}

// run asks all probes, one after the other.
func run() []finding.Finding {
	var list []finding.Finding
	for _, e := range table() {
		a := bounded(e.ask)
		items, more := finding.Clip(a.items)
		if more != "" {
			a.detail += "; " + more
		}
		list = append(list, finding.Finding{Name: e.Name, Value: a.value, Verdict: a.verdict, Detail: a.detail, Items: items})
	}
	return list
}

// bounded gives up on a probe that blocks: a file system that answers late, say. The goroutine is
// left behind; the process ends soon.
func bounded(ask func() answer) answer {
	done := make(chan answer, 1)
	go func() { done <- ask() }()
	select {
	case a := <-done:
		return a
	case <-time.After(askLimit):
		return unknown(fmt.Errorf("no answer within %v", askLimit))
	}
}

// Main is the probe subcommand: it writes the findings to stdout as a JSON list and returns the
// exit code. With arguments it is one of the children that run starts.
func Main(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		if err := child(args, stdout); err != nil {
			_, _ = fmt.Fprintln(stderr, "probe:", err)
			return 1
		}
		return 0
	}
	enc := json.NewEncoder(stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(run()); err != nil {
		_, _ = fmt.Fprintln(stderr, "probe:", err)
		return 1
	}
	return 0
}

// Subcommand is the word by which the agent's main hands over to Main. The probes start themselves
// again with it.
const Subcommand = "probe"

// selfPath is the running program. The link in /proc works also when the file is not in the
// sandbox's own tree.
func selfPath() string {
	const link = "/proc/self/exe"
	if _, err := os.Stat(link); err == nil {
		return link
	}
	if path, err := os.Executable(); err == nil {
		return path
	}
	return os.Args[0]
}
