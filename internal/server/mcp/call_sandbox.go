package mcp

import (
	"context"
	"fmt"
	"strings"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/sandbox"
)

type createArgs struct {
	Template  string   `json:"template,omitempty"`
	Image     string   `json:"image,omitempty"`
	System    string   `json:"system,omitempty" jsonschema:"default the best"`
	MemoryMiB int      `json:"memory_mib,omitempty" jsonschema:"default 256"`
	VCPUs     int      `json:"vcpus,omitempty"`
	Network   bool     `json:"network,omitempty" jsonschema:"reach the internet"`
	Allow     []string `json:"allow,omitempty" jsonschema:"reach only these, such as pypi.org:443"`
	Env       []string `json:"env,omitempty" jsonschema:"each KEY=value"`
	TTLS      float64  `json:"ttl_s,omitempty" jsonschema:"kill it after so long"`
	Key       string   `json:"key,omitempty" jsonschema:"the same makes one only"`
}

func createSandbox(ctx context.Context, c call, in createArgs) (out runtime.SandboxInfo, res result, err error) {
	ttl, err := seconds("create", "ttl_s", in.TTLS)
	if err != nil {
		return out, res, err
	}
	spec := runtime.SandboxSpec{
		Template: in.Template, System: in.System, Image: in.Image, VCPUs: in.VCPUs, MemoryMiB: in.MemoryMiB, Egress: in.Allow, Env: in.Env, TTL: ttl,
	}
	if in.Network {
		spec.Network = sandbox.NetworkOutbound
	}
	if out, err = c.session.Create(ctx, runtime.CreateRequest{SandboxSpec: spec, Key: in.Key}); err != nil {
		return out, res, err
	}
	return out, result{text: "sandbox " + sandboxText(out)}, nil
}

// rulesShown is how many of a sandbox's egress rules its line names.
const rulesShown = 4

// sandboxText is a sandbox in one line.
func sandboxText(s runtime.SandboxInfo) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s, %s, image %s, %d MiB, network %s", s.ID, s.System, s.State, s.Image, s.MemoryMiB, s.Network)
	if n := len(s.Egress); n > 0 {
		b.WriteString(" to " + strings.Join(s.Egress[:min(n, rulesShown)], ", "))
		if n > rulesShown {
			fmt.Fprintf(&b, " and %d more", n-rulesShown)
		}
	}
	if s.Parent != "" {
		b.WriteString(", forked from " + s.Parent)
	}
	if s.Snapshot != "" {
		b.WriteString(", restored from " + s.Snapshot)
	}
	if s.Template != "" {
		b.WriteString(", copied from " + s.Template)
	}
	if s.KillIn != nil {
		fmt.Fprintf(&b, ", killed if idle for %d s", *s.KillIn)
	}
	if s.ExpiresIn != nil {
		fmt.Fprintf(&b, ", ends in %d s", *s.ExpiresIn)
	}
	return b.String()
}

type forkArgs struct {
	Sandbox  string   `json:"sandbox"`
	Count    int      `json:"count,omitempty" jsonschema:"default the number of commands, or 1"`
	Commands []string `json:"commands,omitempty" jsonschema:"one for all children, or one for each"`
	TimeoutS float64  `json:"timeout_s,omitempty" jsonschema:"for the commands"`
	Key      string   `json:"key,omitempty"`
}

// forkResult is runtime.ForkResult with of each child's sandbox only what differs.
type forkResult struct {
	Kind       sandbox.SnapshotKind `json:"kind"`
	Children   []forkChild          `json:"children"`
	DurationMS int64                `json:"duration_ms"`
}

type forkChild struct {
	Sandbox string             `json:"sandbox"`
	Run     *runtime.RunResult `json:"run,omitempty"`
	Error   *runtime.Error     `json:"error,omitempty"`
}

func fork(ctx context.Context, c call, in forkArgs) (out forkResult, res result, err error) {
	timeout, err := seconds("fork", "timeout_s", in.TimeoutS)
	if err != nil {
		return out, res, err
	}
	req := runtime.ForkRequest{Sandbox: in.Sandbox, Count: in.Count, Key: in.Key}
	for _, command := range in.Commands {
		req.Runs = append(req.Runs, runtime.RunRequest{Shell: command, Timeout: timeout})
	}
	forked, err := c.session.Fork(ctx, req)
	if err != nil {
		return out, res, err
	}
	out = forkResult{Kind: forked.Kind, DurationMS: forked.DurationMS, Children: []forkChild{}}
	var b strings.Builder
	for i, child := range forked.Children {
		out.Children = append(out.Children, forkChild{Sandbox: child.Sandbox.ID, Run: child.Run, Error: child.Error})
		fmt.Fprintf(&b, "child %d: sandbox %s\n", i, child.Sandbox.ID)
		switch {
		case child.Run != nil:
			b.WriteString(runText(*child.Run) + "\n")
		case child.Error != nil:
			b.WriteString(errorText(child.Error) + "\n")
		}
	}
	what := "with all that ran in it"
	if forked.Kind == sandbox.SnapshotFiles {
		what = "files only, no processes"
	}
	fmt.Fprintf(&b, "[%d copies of %s, %s, %d ms]", len(forked.Children), in.Sandbox, what, forked.DurationMS)
	return out, result{text: b.String()}, nil
}

type snapshotArgs struct {
	Action   string `json:"action" enum:"save,restore,rollback,remove"`
	Sandbox  string `json:"sandbox,omitempty" jsonschema:"to save or roll back"`
	Snapshot string `json:"snapshot,omitempty" jsonschema:"to restore, roll back to or remove"`
	Name     string `json:"name,omitempty"`
	Key      string `json:"key,omitempty"`
}

// snapshotResult has the snapshot that was saved, or the sandbox that was made of one.
type snapshotResult struct {
	Snapshot *runtime.SnapshotInfo `json:"snapshot,omitempty"`
	Sandbox  *runtime.SandboxInfo  `json:"sandbox,omitempty"`
	Removed  string                `json:"removed,omitempty"`
}

func snapshot(ctx context.Context, c call, in snapshotArgs) (out snapshotResult, res result, err error) {
	var saved runtime.SnapshotInfo
	var box runtime.SandboxInfo
	switch in.Action {
	case "save":
		if saved, err = c.session.Snapshot(ctx, runtime.SnapshotRequest{Sandbox: in.Sandbox, Name: in.Name, Key: in.Key}); err == nil {
			out.Snapshot, res.text = &saved, "snapshot "+snapshotText(saved)
		}
	case "restore":
		if box, err = c.session.Restore(ctx, runtime.RestoreRequest{Snapshot: in.Snapshot, Key: in.Key}); err == nil {
			out.Sandbox, res.text = &box, "sandbox "+sandboxText(box)
		}
	case "rollback":
		if box, err = c.session.Rollback(ctx, runtime.RollbackRequest{Sandbox: in.Sandbox, Snapshot: in.Snapshot}); err == nil {
			out.Sandbox, res.text = &box, "rolled back: sandbox "+sandboxText(box)
		}
	case "remove":
		if err = c.session.RemoveSnapshot(ctx, in.Snapshot); err == nil {
			out.Removed, res.text = in.Snapshot, "[snapshot "+in.Snapshot+" is removed]"
		}
	}
	return out, res, err
}

func snapshotText(s runtime.SnapshotInfo) string {
	name := ""
	if s.Name != "" {
		name = fmt.Sprintf(" %q", s.Name)
	}
	return fmt.Sprintf("%s%s: %s of %s (%s), %d bytes", s.ID, name, s.Kind, s.Sandbox, s.System, s.Bytes)
}

type listArgs struct{}

func list(ctx context.Context, c call, _ listArgs) (out runtime.Listing, res result, err error) {
	if out, err = c.session.List(ctx); err != nil {
		return out, res, err
	}
	var b strings.Builder
	for _, s := range out.Sandboxes {
		b.WriteString("sandbox " + sandboxText(s) + "\n")
	}
	for _, p := range out.Processes {
		state := "running"
		if !p.Running {
			state = ended(p.ExitCode, p.Signal, p.TimedOut)
		}
		fmt.Fprintf(&b, "process %s in %s: %s: %s\n", p.ID, p.Sandbox, state, p.Command)
	}
	for _, s := range out.Snapshots {
		b.WriteString("snapshot " + snapshotText(s) + "\n")
	}
	for _, t := range out.Templates {
		fmt.Fprintf(&b, "template %s: %s, image %s, %d MiB, network %s\n", t.Name, t.System, t.Image, t.MemoryMiB, t.Network)
	}
	for _, l := range out.Budget.Lines {
		fmt.Fprintf(&b, "budget %s: %d of %d left\n", l.Resource, l.Left, l.Limit)
	}
	if b.Len() == 0 {
		b.WriteString("[nothing; create starts a sandbox]")
	}
	return out, result{text: strings.TrimRight(b.String(), "\n")}, nil
}

type killArgs struct {
	Sandbox string `json:"sandbox"`
}

type killResult struct {
	Sandbox string `json:"sandbox"`
	Killed  bool   `json:"killed"`
}

func kill(ctx context.Context, c call, in killArgs) (out killResult, res result, err error) {
	if err = c.session.Kill(ctx, in.Sandbox); err != nil {
		return out, res, err
	}
	return killResult{in.Sandbox, true}, result{text: "[sandbox " + in.Sandbox + " is gone]"}, nil
}
