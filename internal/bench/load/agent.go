package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/bench/agenthost"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/internal/runtime"
)

// agent is one of those that work at the same time. But for ids it is used by one goroutine.
type agent struct {
	r         *run
	n, tenant int
	secret    string
	rand      *rand.Rand
	client    *agenthost.Client
	box       string
	had       map[string]bool // every sandbox that was box
	writes    int

	mu  sync.Mutex
	ids map[string]string // by kind: what others try
}

// secretRE finds secrets, and whose they are.
var secretRE = regexp.MustCompile(`aethersecret-([0-9]+)-[a-z0-9]+`)

const secretFile = "/var/tmp/secret"

func newAgent(r *run, n, tenant int) *agent {
	return &agent{
		r: r, n: n, tenant: tenant, ids: map[string]string{}, had: map[string]bool{},
		secret: fmt.Sprintf("aethersecret-%d-%s", n, lease.NewID()),
		rand:   rand.New(rand.NewPCG(1, uint64(n))),
	}
}

// publish lets others know an ID; an empty one is forgotten.
func (a *agent) publish(kind, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if id == "" {
		delete(a.ids, kind)
		return
	}
	a.ids[kind] = id
}

func (a *agent) id(kind string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ids[kind]
}

// errOver ends an agent's work: the run's time is over, or a fault is noted.
var errOver = errors.New("it is over")

// live is the life of an agent. It works until until ends; ctx bounds the clearing up.
func (a *agent) live(ctx, until context.Context, token string) {
	var err error
	if a.client, err = a.r.host.Connect(ctx, token, fmt.Sprintf("agent%d", a.n)); err != nil {
		a.r.fault("agent %d cannot connect: %v", a.n, err)
		return
	}
	defer func() {
		if err := a.client.Close(); err != nil && ctx.Err() == nil {
			a.r.fault("agent %d: close: %v", a.n, err)
		}
	}()
	if a.begin(ctx) == nil {
		for pause(until, time.Duration(a.rand.ExpFloat64()*float64(a.r.Think))) {
			if a.step(ctx) != nil {
				break
			}
		}
	}
	a.end(ctx)
}

// call calls a tool, which must succeed, and looks at the answer.
func call[T any](ctx context.Context, a *agent, tool string, args agenthost.Args) (out T, err error) {
	raw, err := a.raw(ctx, tool, args)
	if err == nil {
		out, err = agenthost.Decode[T](raw)
	}
	if err != nil {
		a.r.fault("agent %d: %s: %v", a.n, tool, err)
		return out, errOver
	}
	return out, nil
}

// raw calls a tool and searches the answer.
func (a *agent) raw(ctx context.Context, tool string, args agenthost.Args) (json.RawMessage, error) {
	raw, err := a.client.Raw(ctx, tool, args)
	a.r.calls.Add(1)
	a.search(tool, string(raw))
	return raw, err
}

// search looks for what is another's.
func (a *agent) search(what, text string) {
	for _, m := range secretRE.FindAllStringSubmatch(text, -1) {
		if m[1] != strconv.Itoa(a.n) {
			a.r.leaks.Add(1)
			a.r.fault("agent %d got the secret of agent %s by %s", a.n, m[1], what)
		}
	}
}

// begin makes the sandbox, plants the secret and gets IDs of each kind for others to try.
func (a *agent) begin(ctx context.Context) error {
	info, err := call[runtime.SandboxInfo](ctx, a, "create", agenthost.Args{
		"memory_mib": a.r.MemoryMiB, "env": []string{"SECRET=" + a.secret}, "key": fmt.Sprintf("first-%d", a.n),
	})
	if err != nil {
		return err
	}
	if err := a.plant(ctx, info.ID); err != nil {
		return err
	}
	return a.longOutput(ctx)
}

// plant puts the secret into a sandbox, which is the agent's from now on.
func (a *agent) plant(ctx context.Context, box string) error {
	a.box, a.had[box] = box, true
	a.publish("sandbox", box)
	if _, err := call[runtime.WriteResult](ctx, a, "write", agenthost.Args{"sandbox": box, "path": secretFile, "text": a.secret}); err != nil {
		return err
	}
	// A process that has it on its command line, and says it.
	res, err := call[runtime.RunResult](ctx, a, "run", agenthost.Args{
		"sandbox": box, "background": true, "command": "echo " + a.secret + "; exec sleep 100000",
	})
	if err == nil {
		a.publish("process", res.Process)
	}
	return err
}

// step is one piece of work.
func (a *agent) step(ctx context.Context) error {
	for _, c := range []struct {
		of int // 100, of what is left
		do func(context.Context) error
	}{
		{20, a.trespass}, {20, a.edit}, {10, a.list}, {6, a.poll}, {6, a.background}, {4, a.longOutput}, {5, a.lookAround},
		{1, a.save}, {2, a.renew}, {100, a.readSecret},
	} {
		if a.rand.IntN(100) < c.of {
			return c.do(ctx)
		}
	}
	return nil
}

// readSecret has a program tell the secret from environment and file.
func (a *agent) readSecret(ctx context.Context) error {
	res, err := call[runtime.RunResult](ctx, a, "run", agenthost.Args{"sandbox": a.box, "command": `echo "$SECRET $(cat ` + secretFile + `)"`})
	if err != nil {
		return err
	}
	if want := a.secret + " " + a.secret + "\n"; res.Stdout != want {
		a.r.fault("agent %d has %q in its sandbox, not %q", a.n, res.Stdout, want)
	}
	return nil
}

// edit writes a file, changes it and reads it back.
func (a *agent) edit(ctx context.Context) error {
	a.writes++
	name, text := fmt.Sprintf("/var/tmp/work/%d.txt", a.writes%8), fmt.Sprintf("number %d of %s\n", a.writes, a.secret)
	if _, err := call[runtime.WriteResult](ctx, a, "write", agenthost.Args{"sandbox": a.box, "path": name, "text": text}); err != nil {
		return err
	}
	if _, err := call[runtime.WriteResult](ctx, a, "write", agenthost.Args{
		"sandbox": a.box, "path": name, "edits": []agenthost.Args{{"old": "number", "new": "no."}}}); err != nil {
		return err
	}
	res, err := call[struct{ Text string }](ctx, a, "read", agenthost.Args{"sandbox": a.box, "path": name})
	if want := strings.Replace(text, "number", "no.", 1); err == nil && res.Text != want {
		a.r.fault("agent %d reads %q, not %q", a.n, res.Text, want)
	}
	return err
}

// list must have what is one's own and nothing else.
func (a *agent) list(ctx context.Context) error {
	l, err := call[runtime.Listing](ctx, a, "list", nil)
	if err != nil {
		return err
	}
	if len(l.Sandboxes) != 1 || l.Sandboxes[0].ID != a.box {
		a.r.fault("agent %d lists %d sandboxes; its own is %s", a.n, len(l.Sandboxes), a.box)
	}
	for _, p := range l.Processes {
		if !a.had[p.Sandbox] {
			a.r.fault("agent %d lists process %s of sandbox %s", a.n, p.ID, p.Sandbox)
		}
	}
	return nil
}

func (a *agent) poll(ctx context.Context) error {
	res, err := call[runtime.PollResult](ctx, a, "process", agenthost.Args{"process": a.id("process")})
	if err == nil && (!res.Running || res.ProcessInfo.Error != nil) {
		a.r.fault("agent %d: its background process has ended: %+v", a.n, res.ProcessInfo)
	}
	return err
}

// background starts a process, reads what it says, and ends it.
func (a *agent) background(ctx context.Context) error {
	res, err := call[runtime.RunResult](ctx, a, "run", agenthost.Args{"sandbox": a.box, "background": true, "command": "echo begun; exec sleep 1000"})
	if err != nil {
		return err
	}
	if p, err := call[runtime.PollResult](ctx, a, "process", agenthost.Args{"process": res.Process, "wait_s": 60}); err != nil {
		return err
	} else if p.Stdout.Text != "begun\n" {
		a.r.fault("agent %d: a process said %q", a.n, p.Stdout.Text)
	}
	p, err := call[runtime.PollResult](ctx, a, "process", agenthost.Args{"process": res.Process, "action": "signal", "signal": "KILL", "wait_s": 60})
	if err == nil && p.Running {
		a.r.fault("agent %d: a process outlives its end", a.n)
	}
	return err
}

// longOutput gets a result that is cut, and the rest by its handle.
func (a *agent) longOutput(ctx context.Context) error {
	res, err := call[runtime.RunResult](ctx, a, "run", agenthost.Args{"sandbox": a.box, "command": "echo $SECRET; seq 1 12000"})
	if err != nil {
		return err
	}
	if !res.Truncated {
		a.r.fault("agent %d: %d bytes of output are not cut", a.n, len(res.Stdout))
	}
	a.publish("output", res.Output)
	out, err := call[struct{ Text string }](ctx, a, "read", agenthost.Args{"output": res.Output, "max": 64})
	if err == nil && !strings.HasPrefix(out.Text, a.secret+"\n1\n2\n") {
		a.r.fault("agent %d reads %.80q of its output", a.n, out.Text)
	}
	return err
}

// lookAround has a program search its own system for what is another's.
func (a *agent) lookAround(ctx context.Context) error {
	_, err := call[runtime.RunResult](ctx, a, "run", agenthost.Args{"sandbox": a.box,
		"command": `cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/mounts /proc/net/* 2>/dev/null | tr '\0' '\n'; find /tmp /var/tmp /dev/shm /run -type f 2>/dev/null -exec cat {} +`})
	return err
}

// save makes a snapshot, which others then try, in place of the last one.
func (a *agent) save(ctx context.Context) error {
	if err := a.unsave(ctx); err != nil {
		return err
	}
	res, err := call[struct{ Snapshot runtime.SnapshotInfo }](ctx, a, "snapshot", agenthost.Args{"action": "save", "sandbox": a.box})
	if err == nil {
		a.publish("snapshot", res.Snapshot.ID)
	}
	return err
}

func (a *agent) unsave(ctx context.Context) error {
	id := a.id("snapshot")
	if id == "" {
		return nil
	}
	a.publish("snapshot", "")
	_, err := call[struct{}](ctx, a, "snapshot", agenthost.Args{"action": "remove", "snapshot": id})
	return err
}

// renew kills the sandbox and begins again.
func (a *agent) renew(ctx context.Context) error {
	if _, err := call[struct{}](ctx, a, "kill", agenthost.Args{"sandbox": a.box}); err != nil {
		return err
	}
	_, err := a.raw(ctx, "run", agenthost.Args{"sandbox": a.box, "command": "true"})
	if code := runtime.CodeOf(err); err == nil || code != runtime.CodeGone {
		a.r.fault("agent %d: its sandbox that was killed answers: %v", a.n, err)
	}
	a.box = ""
	info, err := call[runtime.SandboxInfo](ctx, a, "create", agenthost.Args{"memory_mib": a.r.MemoryMiB, "env": []string{"SECRET=" + a.secret}})
	if err != nil {
		return err
	}
	return a.plant(ctx, info.ID)
}

// end clears up.
func (a *agent) end(ctx context.Context) {
	_ = a.unsave(ctx) // noted as a fault
	if a.box != "" {
		_, _ = call[struct{}](ctx, a, "kill", agenthost.Args{"sandbox": a.box})
	}
}
