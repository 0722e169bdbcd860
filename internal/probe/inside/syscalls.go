package inside

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/probe/finding"
)

// SyscallPrefix begins the names of the probes whose items are the system calls that were reached.
const SyscallPrefix = "syscalls."

// syscallProbes has one probe for each family of the list.
func syscallProbes() []entry {
	ask := sync.OnceValues(outcomes) // one run serves all families
	var t []entry
	for _, f := range families {
		var names []string
		for _, c := range calls {
			if c.family == f.name {
				names = append(names, c.name)
			}
		}
		t = append(t, entry{finding.Probe{Name: SyscallPrefix + f.name, Scope: finding.ScopeKernel,
			Question: "Which system calls to " + f.purpose + " get past filters and privilege checks (" + strings.Join(names, ", ") + ")?",
			Better:   "None: what cannot be called cannot be exploited.",
			Worse:    "Any: " + f.risk},
			func() answer { return familyAnswer(f.name, ask) }})
	}
	return t
}

type family struct{ name, purpose, risk string }

var families = []family{
	{"code", "put code into the kernel", "each has led, or is made to lead, to code running as the kernel."},
	{"observe", "look into other processes or the kernel", "they read or steer what is not the guest's own."},
	{"mount", "change mounts", "file system code was written for trusted callers."},
	{"namespace", "enter or make namespaces, or open files past paths", "they widen what code of the kernel a guest reaches; file handles lead out of a root directory."},
	{"async", "use asynchronous or deferred interfaces", "a frequent source of use-after-free holes, and io_uring also bypasses filters."},
	{"keys", "use the kernel's key store", "keys are shared between guests with the same user ID."},
	{"memory", "use rare memory interfaces", "rarely used, so rarely tested."},
	{"admin", "administer the machine", "the machine is the host."},
	{"sockets", "use unusual sockets and terminals", "protocols that nobody needs are loaded on demand; TIOCSTI types into the caller's terminal."},
	{"rare", "do what hardly any program does", "old code that is reached for no gain."},
}

// call is a system call with arguments that the kernel refuses before it acts.
type call struct {
	family, name string
	number       uintptr
	args         [6]uintptr
	// do replaces number and args where an argument is a string or struct.
	do func() error
}

func (c call) invoke() error {
	if c.do != nil {
		return c.do()
	}
	if _, _, errno := unix.Syscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5]); errno != 0 {
		return errno
	}
	return nil
}

// How a call ended. Any answer but a denial means that the kernel's own code for it was entered.
const (
	outcomeReached = "reached"
	outcomeDenied  = "denied" // EPERM or EACCES: by a filter, or for want of a capability
	outcomeAbsent  = "absent" // ENOSYS
	outcomeKilled  = "killed" // a filter ended the process
)

// outcomes makes all calls and returns how each ended. They are made in a child, which is started
// again behind the call that cost it its life.
func outcomes() ([]string, error) {
	result := make([]string, 0, len(calls))
	for len(result) < len(calls) {
		lines, err := runChild(nil, childSyscalls, strconv.Itoa(len(result)))
		if err != nil && !endedBadly(err) {
			return nil, err
		}
		before := len(result)
		for _, line := range lines {
			if outcome, ok := strings.CutPrefix(line, "got "); ok {
				result = append(result, outcome)
			}
		}
		switch tried, ok := lastField(lines, "try"); {
		case ok && tried == strconv.Itoa(len(result)): // tried, not answered
			result = append(result, outcomeKilled)
		case len(result) == before:
			return nil, fmt.Errorf("the child that makes the calls said nothing: %w", err)
		}
	}
	if len(result) > len(calls) {
		return nil, errors.New("more answers than calls")
	}
	return result, nil
}

// syscallChild makes the calls from first on and says before and after each how it stands.
func syscallChild(first int, stdout io.Writer) error {
	for i := first; i < len(calls); i++ {
		if _, err := fmt.Fprintf(stdout, "try %d\n", i); err != nil {
			return err
		}
		err := calls[i].invoke()
		outcome := outcomeReached
		switch {
		case errors.Is(err, unix.ENOSYS):
			outcome = outcomeAbsent
		case err != nil && denied(err):
			outcome = outcomeDenied
		}
		if _, err := fmt.Fprintf(stdout, "got %s\n", outcome); err != nil {
			return err
		}
	}
	return nil
}

func familyAnswer(name string, outcomes func() ([]string, error)) answer {
	all, err := outcomes()
	if err != nil {
		return unknown(err)
	}
	total := 0
	var reached []string
	counts := map[string]int{}
	for i, c := range calls {
		if c.family != name {
			continue
		}
		total++
		counts[all[i]]++
		if all[i] == outcomeReached {
			reached = append(reached, c.name)
		}
	}
	slices.Sort(reached)
	a := answer{value: fmt.Sprintf("%d of %d reached", len(reached), total), verdict: finding.Better, items: reached,
		detail: fmt.Sprintf("%d denied, %d absent, %d killed the caller", counts[outcomeDenied], counts[outcomeAbsent], counts[outcomeKilled])}
	if len(reached) > 0 {
		a.verdict = finding.Worse
	}
	return a
}
