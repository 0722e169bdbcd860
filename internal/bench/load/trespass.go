package load

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aethervm/aether/internal/bench/agenthost"
	"github.com/aethervm/aether/internal/runtime"
)

// attempt is a call with an ID of somebody else.
type attempt struct {
	kind, tool string
	args       func(id string) agenthost.Args
}

func attempts() []attempt {
	return []attempt{
		{"sandbox", "run", func(id string) agenthost.Args { return agenthost.Args{"sandbox": id, "command": "cat " + secretFile} }},
		{"sandbox", "run", func(id string) agenthost.Args {
			return agenthost.Args{"sandbox": id, "command": "echo $SECRET", "background": true}
		}},
		{"sandbox", "code", func(id string) agenthost.Args { return agenthost.Args{"sandbox": id, "code": "1"} }},
		{"sandbox", "read", func(id string) agenthost.Args { return agenthost.Args{"sandbox": id, "path": secretFile} }},
		{"sandbox", "write", func(id string) agenthost.Args {
			return agenthost.Args{"sandbox": id, "path": secretFile, "text": "taken"}
		}},
		{"sandbox", "fork", func(id string) agenthost.Args { return agenthost.Args{"sandbox": id} }},
		{"sandbox", "snapshot", func(id string) agenthost.Args { return agenthost.Args{"sandbox": id, "action": "save"} }},
		{"sandbox", "kill", func(id string) agenthost.Args { return agenthost.Args{"sandbox": id} }},
		{"process", "process", func(id string) agenthost.Args { return agenthost.Args{"process": id} }},
		{"process", "process", func(id string) agenthost.Args {
			return agenthost.Args{"process": id, "action": "signal", "signal": "KILL"}
		}},
		{"process", "read", func(id string) agenthost.Args { return agenthost.Args{"output": id} }},
		{"output", "read", func(id string) agenthost.Args { return agenthost.Args{"output": id} }},
		{"snapshot", "snapshot", func(id string) agenthost.Args { return agenthost.Args{"snapshot": id, "action": "restore"} }},
		{"snapshot", "snapshot", func(id string) agenthost.Args { return agenthost.Args{"snapshot": id, "action": "remove"} }},
	}
}

// resources are addresses with an ID of somebody else.
func resources(kind, id string) []string {
	switch kind {
	case "sandbox":
		return []string{"aether://sandboxes/" + id, "aether://sandboxes/" + id + "/files" + secretFile}
	case "process", "output":
		return []string{"aether://outputs/" + id + "/stdout"}
	}
	return nil
}

// trespass tries what another agent has. The answer must be that for what does not exist, word for word.
func (a *agent) trespass(ctx context.Context) error {
	list := attempts()
	try := list[a.rand.IntN(len(list))]
	victim := a.r.agents[a.rand.IntN(len(a.r.agents))]
	if victim == a || try.kind == "snapshot" && victim.tenant == a.tenant { // snapshots are the tenant's
		return nil
	}
	id := victim.id(try.kind)
	if id == "" {
		return nil
	}
	a.r.tried.Add(1)
	what := fmt.Sprintf("%s with a %s of agent %d", try.tool, try.kind, victim.n)
	answer, none, strange := "", "", a.unknown(id)
	for _, c := range []struct {
		id   string
		into *string
	}{{id, &answer}, {strange, &none}} {
		_, err := a.raw(ctx, try.tool, try.args(c.id))
		e, ok := errors.AsType[*runtime.Error](err)
		if !ok || e.Code != runtime.CodeNotFound {
			if ctx.Err() == nil {
				a.r.leaks.Add(1)
				a.r.fault("agent %d: %s is not answered by not_found: %v", a.n, what, err)
			}
			return nil
		}
		*c.into = strings.ReplaceAll(e.Error(), c.id, "ID")
	}
	if answer != none {
		a.r.leaks.Add(1)
		a.r.fault("agent %d: %s is answered by %q, and one that never was by %q", a.n, what, answer, none)
	}
	for _, uri := range resources(try.kind, id) {
		raw, err := a.client.Resource(ctx, uri)
		a.r.calls.Add(1)
		a.search("a resource", string(raw))
		if err == nil {
			a.r.leaks.Add(1)
			a.r.fault("agent %d reads the resource %s of agent %d", a.n, uri, victim.n)
		}
	}
	return nil
}

// unknown is an ID of the same form that nobody has.
func (a *agent) unknown(id string) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	b := []byte(id)
	for i := 2; i < len(b); i++ {
		b[i] = alphabet[a.rand.IntN(len(alphabet))]
	}
	return string(b)
}
