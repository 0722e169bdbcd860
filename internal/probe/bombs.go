package probe

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/internal/host"
	"github.com/aethervm/aether/internal/probe/bomb"
	"github.com/aethervm/aether/internal/probe/finding"
	"github.com/aethervm/aether/internal/probe/outside"
	"github.com/aethervm/aether/sandbox"
)

const (
	// bombTime is for how long a bomb is kept going, and siblings and host watched.
	bombTime = 5 * time.Second
	// bombGrace is how much longer its exec may take to return, under emulation.
	bombGrace = 60 * time.Second
	// guestProcesses is the size of a process bomb for a kernel of its own, which has no limit that
	// could be seen from outside.
	guestProcesses = 2000
)

func bombProbes() []finding.Probe {
	return []finding.Probe{
		{Name: "bombs." + bomb.Processes, Scope: finding.ScopeHost,
			Question: "While every process in a sandbox makes more of itself, do a sibling and the host go on answering?",
			Better:   "Yes.",
			Worse:    "No, or nothing bounds the sandbox's processes, so that it was not tried."},
		{Name: "bombs." + bomb.Memory, Scope: finding.ScopeHost,
			Question: "While a program in a sandbox takes all the memory that it can get, do a sibling and the host go on answering?",
			Better:   "Yes.",
			Worse:    "No, or nothing bounds the sandbox's memory, so that it was not tried."},
	}
}

// Bomb is how one bomb went.
type Bomb struct {
	Name string `json:"name"`
	// Limit is what bounds the sandbox, as seen before; empty means that nothing did, and that the
	// bomb was not set off.
	Limit string `json:"limit,omitempty"`
	// Ends says how each run of the bomb ended: one that the kernel kills is started again until
	// the time is over.
	Ends []string `json:"ends,omitempty"`
	// Alive tells whether the bombed sandbox itself still answered afterwards.
	Alive bool `json:"alive"`
	// Before is the sibling at rest; Sibling and Host are what both felt meanwhile.
	Before  Latency `json:"before"`
	Sibling Latency `json:"sibling"`
	Host    Latency `json:"host"`
}

// BombReport is what the bombs say about a system.
type BombReport struct {
	Bombs   []finding.Finding `json:"bombs"`
	Runs    []Bomb            `json:"runs"`
	Metrics Metrics           `json:"metrics"`
}

// Bombs sets off one bomb after the other, each in a sandbox of its own beside a sibling, both made
// by create, and closes the sandboxes. accelerator is sandbox.Info's. The host is never put at
// risk: a bomb goes off only in a sandbox that something is seen to bound, and its own size is
// bounded by what the host has to spare.
func Bombs(ctx context.Context, create func(context.Context) (sandbox.Sandbox, error), accelerator string) (BombReport, error) {
	r := BombReport{Metrics: Metrics{}}
	for _, p := range bombProbes() {
		run, f, err := setOff(ctx, create, p.Name, accelerator)
		if err != nil {
			return BombReport{}, fmt.Errorf("%s: %w", p.Name, err)
		}
		r.Runs, r.Bombs = append(r.Runs, run), append(r.Bombs, f)
	}
	r.Metrics["isolation.bombs_ratio"] = ratio(r.Bombs)
	return r, nil
}

func setOff(ctx context.Context, create func(context.Context) (sandbox.Sandbox, error), name, accelerator string) (run Bomb, f finding.Finding, err error) {
	run.Name = name
	sibling, err := create(ctx)
	if err != nil {
		return run, f, fmt.Errorf("create the sibling: %w", err)
	}
	defer func() { err = errors.Join(err, sibling.Close()) }()
	target, err := create(ctx)
	if err != nil {
		return run, f, fmt.Errorf("create the sandbox to bomb: %w", err)
	}
	defer func() { err = errors.Join(err, target.Close()) }()

	kind := strings.TrimPrefix(name, "bombs.")
	size, limit, err := bombSize(ctx, target, kind, accelerator)
	if err != nil {
		return run, finding.Finding{Name: name, Value: "not run", Verdict: finding.Unknown, Detail: err.Error()}, ctx.Err()
	}
	if size == 0 {
		return run, finding.Finding{Name: name, Value: "not run", Verdict: finding.Worse, Detail: "no limit on " + kind + " was found"}, nil
	}
	run.Limit = limit

	run.Before, err = watchFor(ctx, 10, 20*time.Second, askSandbox(sibling))
	if err != nil {
		return run, f, fmt.Errorf("the sibling at rest: %w", err)
	}
	stopSibling := watch(ctx, askSandbox(sibling))
	stopHost := watch(ctx, askHost)
	run.Ends = keepBombing(ctx, target, kind, size)
	run.Sibling, run.Host = stopSibling(), stopHost()
	if err := ctx.Err(); err != nil {
		return run, f, err
	}
	alive, aliveErr := watchFor(ctx, 1, answerLimit, askSandbox(target))
	run.Alive = aliveErr == nil && alive.Failed == 0
	return run, judgeBomb(run), nil
}

// bombSize finds out what bounds a sandbox and makes the bomb twice as large. 0 means that nothing
// does; an error, that it could not be found out.
func bombSize(ctx context.Context, sb sandbox.Sandbox, kind, accelerator string) (size int, limit string, err error) {
	machine := accelerator == "kvm" || accelerator == "tcg"
	cgroup, err := cgroupLimits(ctx, sb)
	if err != nil && !machine {
		return 0, "", err
	}
	if kind == bomb.Processes {
		switch {
		case cgroup.Processes > 0:
			return int(min(2*cgroup.Processes, bomb.MaxProcesses)), fmt.Sprintf("cgroup: %d processes", cgroup.Processes), nil
		case machine:
			return guestProcesses, "the processes are a virtual machine's own", nil
		}
		return 0, "", nil
	}

	m, err := host.Meminfo()
	if err != nil {
		return 0, "", err
	}
	bound := cgroup.MemoryBytes
	limit = fmt.Sprintf("cgroup: %d MiB", bound>>20)
	if bound == 0 && machine {
		// A monitor never maps more than the machine's RAM, which the guest sees less a little.
		if bound, err = guestMemory(ctx, sb); err != nil {
			return 0, "", err
		}
		limit = fmt.Sprintf("virtual machine: %d MiB of RAM", bound>>20)
	}
	if bound == 0 {
		return 0, "", nil
	}
	spare := m["MemAvailable"] / 2
	if bound > spare {
		return 0, "", fmt.Errorf("the sandbox may use %d MiB, more than half of what the host has left", bound>>20)
	}
	return int(min(2*bound, spare, bomb.MaxMiB<<20) >> 20), limit, nil
}

// cgroupLimits are the limits that hold for every process that runs guest code.
func cgroupLimits(ctx context.Context, sb sandbox.Sandbox) (outside.Limits, error) {
	inspector, ok := sb.(sandbox.Inspector)
	if !ok {
		return outside.Limits{}, errors.New("the driver does not say which host processes run guest code")
	}
	processes, err := inspector.HostProcesses(ctx)
	if err != nil {
		return outside.Limits{}, err
	}
	pids := outside.GuestPIDs(processes)
	if len(pids) == 0 {
		return outside.Limits{}, errors.New("no process that runs guest code was found")
	}
	var all outside.Limits
	for i, pid := range pids {
		l, err := outside.LimitsOf(pid)
		if err != nil {
			return outside.Limits{}, err
		}
		if i == 0 {
			all = l
		}
		all.MemoryBytes = loosest(all.MemoryBytes, l.MemoryBytes)
		all.Processes = loosest(all.Processes, l.Processes)
	}
	return all, nil
}

// loosest of two limits of which 0 is none.
func loosest(a, b int64) int64 {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// guestMemory is the RAM that the sandbox's kernel says it has.
func guestMemory(ctx context.Context, sb sandbox.Sandbox) (int64, error) {
	out := capped{limit: 64 << 10}
	exit, err := sb.Exec(ctx, sandbox.Cmd{Args: []string{"cat", "/proc/meminfo"}, Stdout: &out, Timeout: bombGrace})
	if err != nil {
		return 0, err
	}
	m, err := host.ParseMemory(&out.Buffer)
	if err != nil {
		return 0, err
	}
	if !exit.Success() || m["MemTotal"] == 0 {
		return 0, fmt.Errorf("the sandbox does not say how much memory it has: cat /proc/meminfo: %v", exit)
	}
	return m["MemTotal"], nil
}

// keepBombing runs the bomb until bombTime is over, again each time that it is killed early.
func keepBombing(ctx context.Context, sb sandbox.Sandbox, kind string, size int) []string {
	const maxRuns = 500
	var ends []string
	for deadline := time.Now().Add(bombTime); time.Now().Before(deadline) && len(ends) < maxRuns && ctx.Err() == nil; {
		left := max(time.Until(deadline), 100*time.Millisecond).Round(time.Millisecond)
		out := capped{limit: 4096}
		exit, err := sb.Exec(ctx, sandbox.Cmd{
			Args:   []string{guestagent.Mount, "bomb", kind, strconv.Itoa(size), left.String()},
			Stdout: &out, Timeout: left + bombGrace,
		})
		if err != nil {
			ends = append(ends, err.Error()) // the sandbox itself may have died of it
			if errors.Is(err, sandbox.ErrDead) || errors.Is(err, sandbox.ErrClosed) {
				break
			}
			continue
		}
		ends = append(ends, strings.TrimSuffix(exit.String()+": "+strings.TrimSpace(out.String()), ": "))
	}
	return ends
}

// judgeBomb says whether anyone but the bombed sandbox noticed.
func judgeBomb(run Bomb) finding.Finding {
	f := finding.Finding{Name: run.Name, Verdict: finding.Better, Value: "contained",
		Detail: fmt.Sprintf("%s; sibling p50 %.0f ms, max %.0f ms (at rest %.0f ms); host max %.0f ms", run.Limit, run.Sibling.P50, run.Sibling.Max, run.Before.P50, run.Host.Max)}
	for _, who := range []struct {
		name string
		l    Latency
	}{{"the sibling", run.Sibling}, {"the host", run.Host}} {
		if who.l.Failed > 0 || who.l.Count == 0 {
			f.Verdict, f.Value = finding.Worse, who.name+" did not answer"
			if who.l.Error != "" {
				f.Detail += "; " + who.l.Error
			}
			return f
		}
	}
	return f
}
