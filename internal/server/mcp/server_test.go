package mcp

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

func TestRun(t *testing.T) {
	c := inMemory(t, runtime.Limits{})
	res := c.call("run", args{"command": "echo out; stderr err; exit 3"})
	got := structured[runtime.RunResult](t, res)
	if res.IsError || got.ExitCode == nil || *got.ExitCode != 3 || got.Stdout != "out\n" || got.Stderr != "err\n" || !got.Ephemeral {
		t.Errorf("%+v", got)
	}
	if s := text(res); !strings.HasPrefix(s, "out\n[stderr]\nerr\n[exit 3, ") || !strings.HasSuffix(s, " (removed)]") {
		t.Errorf("text %q", s)
	}
	if l := must[runtime.Listing](c, "list", nil); len(l.Sandboxes) != 0 {
		t.Errorf("left: %+v", l.Sandboxes)
	}
	if got := must[runtime.RunResult](c, "run", args{"command": "sleep 60", "timeout_s": 0.2}); !got.TimedOut {
		t.Errorf("%+v", got)
	}
	if got := must[runtime.RunResult](c, "run", args{"command": "cat; env A", "stdin": "in\n", "env": []string{"A=b"}}); got.Stdout != "in\nb\n" {
		t.Errorf("%+v", got)
	}
}

func TestFiles(t *testing.T) {
	c := inMemory(t, runtime.Limits{})
	box := must[runtime.SandboxInfo](c, "create", nil).ID
	must[runtime.WriteResult](c, "write", args{"sandbox": box, "path": "/a/b.txt", "text": "one two two"})
	c.refused(runtime.CodeConflict, "write", args{"sandbox": box, "path": "/a/b.txt", "edits": []args{{"old": "two", "new": "2"}}})
	w := must[runtime.WriteResult](c, "write", args{"sandbox": box, "path": "/a/b.txt", "edits": []args{{"old": "two", "new": "2", "all": true}}})
	if w.Replaced != 2 {
		t.Errorf("%+v", w)
	}
	if r := must[readResult](c, "read", args{"sandbox": box, "path": "/a/b.txt"}); r.Text != "one 2 2" || r.Next != nil {
		t.Errorf("%+v", r)
	}
	if r := must[readResult](c, "read", args{"sandbox": box, "path": "/a/b.txt", "offset": 4, "max": 1}); r.Text != "2" || r.Next == nil || *r.Next != 5 {
		t.Errorf("%+v", r)
	}
	if r := must[readResult](c, "read", args{"sandbox": box, "path": "/a"}); !slices.ContainsFunc(r.Entries, func(e runtime.Entry) bool { return e.Name == "b.txt" && e.Size == 7 }) {
		t.Errorf("%+v", r)
	}
	must[runtime.WriteResult](c, "write", args{"sandbox": box, "path": "/bin.sh", "text": "AP8=", "encoding": "base64", "mode": "755"})
	if r := must[readResult](c, "read", args{"sandbox": box, "path": "/bin.sh"}); r.Encoding != "base64" || r.Text != "AP8=" || r.Mode != "-rwxr-xr-x" {
		t.Errorf("%+v", r)
	}
	must[runtime.WriteResult](c, "write", args{"sandbox": box, "path": "/empty", "text": ""})
	if s := text(c.call("read", args{"sandbox": box, "path": "/empty"})); s != "[empty]" {
		t.Errorf("text %q", s)
	}
	c.refused(runtime.CodeNotFound, "read", args{"sandbox": box, "path": "/none"})
	c.refused(runtime.CodeInvalid, "read", args{"sandbox": box})
	c.refused(runtime.CodeInvalid, "write", args{"sandbox": box, "path": "/x"})
	c.refused(runtime.CodeInvalid, "write", args{"sandbox": box, "path": "/x", "text": "", "mode": "rwx"})

	read, err := c.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "aether://sandboxes/" + box + "/files/a/b.txt"})
	if err != nil || read.Contents[0].Text != "one 2 2" {
		t.Errorf("%+v, %v", read, err)
	}
	read, err = c.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "aether://sandboxes/" + box + "/files/bin.sh"})
	if err != nil || string(read.Contents[0].Blob) != "\x00\xff" {
		t.Errorf("%+v, %v", read, err)
	}
	must[killResult](c, "kill", args{"sandbox": box})
	must[killResult](c, "kill", args{"sandbox": box}) // once more is no error
	c.refused(runtime.CodeGone, "read", args{"sandbox": box, "path": "/a"})
}

func TestProcess(t *testing.T) {
	c := inMemory(t, runtime.Limits{})
	box := must[runtime.SandboxInfo](c, "create", nil).ID
	started := must[runtime.RunResult](c, "run", args{"sandbox": box, "command": "cat; exit 4", "background": true})
	if started.Process == "" || started.ExitCode != nil {
		t.Fatalf("%+v", started)
	}
	p := must[runtime.PollResult](c, "process", args{"process": started.Process, "action": "write", "data": "it\n", "wait_s": 10})
	if p.Stdout.Text != "it\n" || !p.Running {
		t.Errorf("%+v", p)
	}
	res := c.call("process", args{"process": started.Process, "action": "close", "wait_s": 10, "stdout": p.Stdout.Next})
	if p = structured[runtime.PollResult](t, res); p.Running || p.Stdout.Text != "" || p.ExitCode == nil || *p.ExitCode != 4 {
		t.Errorf("%+v", p)
	}
	if s := text(res); !strings.HasPrefix(s, "["+started.Process+" exit 4, ") || !strings.HasSuffix(s, "next stdout=3 stderr=0]") {
		t.Errorf("text %q", s)
	}
	sleeping := must[runtime.RunResult](c, "run", args{"sandbox": box, "command": "sleep 60", "background": true}).Process
	if p = must[runtime.PollResult](c, "process", args{"process": sleeping, "action": "signal", "signal": "TERM", "wait_s": 10}); p.Running || p.Signal != "SIGTERM" {
		t.Errorf("%+v", p)
	}
	c.refused(runtime.CodeNotFound, "process", args{"process": "prnone"})
}

func TestLongOutput(t *testing.T) {
	c := inMemory(t, runtime.Limits{OutputShown: 1 << 10})
	res := c.call("run", args{"command": "flood 6500"})
	got := structured[runtime.RunResult](t, res)
	if !got.Truncated || got.Output == "" || len(got.Stdout) > 1200 || len(text(res)) > 1500 {
		t.Fatalf("%d bytes, %+v", len(got.Stdout), got)
	}
	var link *sdk.ResourceLink
	for _, content := range res.Content {
		if l, ok := content.(*sdk.ResourceLink); ok && link == nil {
			link = l
		}
	}
	if link == nil {
		t.Fatal("no link to the whole")
	}
	whole, err := c.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: link.URI})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(whole.Contents[0].Text); n != 6500 {
		t.Errorf("%d bytes", n)
	}
	r := must[readResult](c, "read", args{"output": got.Output, "stream": "stdout", "offset": 3000, "max": 4})
	if r.Text != whole.Contents[0].Text[3000:3004] || r.Next == nil || *r.Next != 3004 {
		t.Errorf("%+v", r)
	}
}

func TestCode(t *testing.T) {
	c := inMemory(t, runtime.Limits{})
	box := must[runtime.SandboxInfo](c, "create", nil).ID
	must[runtime.CodeResult](c, "code", args{"sandbox": box, "code": "x = 42"})
	res := c.call("code", args{"sandbox": box, "code": "x"})
	if got := structured[runtime.CodeResult](t, res); got.Value != "42" || !strings.HasPrefix(text(res), "42\n[done, ") {
		t.Errorf("%+v, %q", got, text(res))
	}
	res = c.call("code", args{"sandbox": box, "code": "raise it"})
	if got := structured[runtime.CodeResult](t, res); res.IsError || got.Error == nil || !strings.HasPrefix(text(res), "Traceback: it\n[raised Exception, ") {
		t.Errorf("%+v, %q", got, text(res))
	}
}

func TestForkAndSnapshot(t *testing.T) {
	c := over(t, openRuntime(t, runtimetest.New("docker"), runtime.Limits{}))
	box := must[runtime.SandboxInfo](c, "create", nil).ID
	must[runtime.WriteResult](c, "write", args{"sandbox": box, "path": "/f", "text": "before"})
	saved := must[snapshotResult](c, "snapshot", args{"action": "save", "sandbox": box, "name": "first"}).Snapshot
	forked := must[forkResult](c, "fork", args{"sandbox": box, "count": 3, "commands": []string{"env AETHER_FORK; write /f changed"}})
	if len(forked.Children) != 3 {
		t.Fatalf("%+v", forked)
	}
	for i, child := range forked.Children {
		if child.Run == nil || child.Run.Stdout != strconv.Itoa(i)+"\n" {
			t.Errorf("%+v", child.Run)
		}
		if r := must[readResult](c, "read", args{"sandbox": child.Sandbox, "path": "/f"}); r.Text != "changed" {
			t.Errorf("%+v", r)
		}
	}
	must[runtime.WriteResult](c, "write", args{"sandbox": box, "path": "/f", "text": "after"})
	back := must[snapshotResult](c, "snapshot", args{"action": "rollback", "sandbox": box, "snapshot": saved.ID}).Sandbox
	other := must[snapshotResult](c, "snapshot", args{"action": "restore", "snapshot": saved.ID}).Sandbox
	for _, id := range []string{back.ID, other.ID} {
		if r := must[readResult](c, "read", args{"sandbox": id, "path": "/f"}); r.Text != "before" {
			t.Errorf("%+v", r)
		}
	}
	l := c.call("list", nil)
	if s := text(l); strings.Count(s, "sandbox ") != 5 || strings.Count(s, "snapshot "+saved.ID) != 1 {
		t.Errorf("text %q", s)
	}
	must[snapshotResult](c, "snapshot", args{"action": "remove", "snapshot": saved.ID})
	c.refused(runtime.CodeNotFound, "snapshot", args{"action": "restore", "snapshot": saved.ID})
	c.refused(runtime.CodeInvalid, "snapshot", args{"action": "undo"})
}

func TestErrorsSayWhatToDo(t *testing.T) {
	c := inMemory(t, runtime.Limits{Session: runtime.Budget{Sandboxes: 1}})
	if e := c.refusal(runtime.CodeNotFound, "run", args{"sandbox": "sbnone", "command": "true"}); e.Remedy == "" {
		t.Error("no remedy")
	}
	if e := c.refusal(runtime.CodeInvalid, "run", args{"cmd": "true"}); !strings.Contains(e.Cause, "command") {
		t.Errorf("%+v", e)
	}
	c.refused(runtime.CodeInvalid, "run", args{"command": "true", "timeout_s": -1})
	c.refused(runtime.CodeDenied, "create", args{"network": true})
	must[runtime.SandboxInfo](c, "create", args{"key": "a"})
	must[runtime.SandboxInfo](c, "create", args{"key": "a"}) // the same one
	e := c.refusal(runtime.CodeBudget, "create", nil)
	if e.Budget == nil || e.Budget.Limit != 1 || e.Budget.Left != 0 {
		t.Errorf("%+v", e)
	}
}

// TestAllow asks for sandboxes with rules about where to.
func TestAllow(t *testing.T) {
	var got sandbox.Spec
	rt, driver := newRuntime(t, runtime.Limits{})
	driver.OnCreate = func(_ context.Context, spec sandbox.Spec) error { got = spec; return nil }
	c := over(t, rt, runtime.CanNetwork)
	rules := []string{"pypi.org:443", "*.debian.org", "203.0.113.0/24", "udp://192.0.2.7:123", "example.org"}
	for _, network := range []bool{false, true} { // rules are enough
		res := c.call("create", args{"allow": rules, "network": network})
		info := structured[runtime.SandboxInfo](t, res)
		if got.Network != sandbox.NetworkOutbound || !slices.Equal(got.Egress, rules) || !slices.Equal(info.Egress, rules) {
			t.Errorf("the driver got %s, %q; the client %+v", got.Network, got.Egress, info)
		}
		if s := text(res); !strings.Contains(s, "network outbound to pypi.org:443, *.debian.org, 203.0.113.0/24, udp://192.0.2.7:123 and 1 more") {
			t.Errorf("text %q", s)
		}
	}
	must[runtime.SandboxInfo](c, "create", args{"allow": []string{}})
	if got.Network != sandbox.NetworkNone {
		t.Errorf("no rules allow %s", got.Network)
	}
	if e := c.refusal(runtime.CodeInvalid, "create", args{"allow": []string{"https://pypi.org/"}}); !strings.Contains(e.Remedy, "pypi.org:443") {
		t.Errorf("%+v", e)
	}
	many := slices.Repeat([]string{"pypi.org"}, sandbox.MaxEgressRules+1)
	c.refused(runtime.CodeInvalid, "create", args{"allow": many})
	c.refused(runtime.CodeInvalid, "create", args{"allow": "pypi.org"})
	if driver.Made() != 3 {
		t.Errorf("%d were made", driver.Made())
	}
	driver.OnCreate = func(_ context.Context, spec sandbox.Spec) error { return spec.RefuseEgressRules("create", "docker") }
	if e := c.refusal(runtime.CodeUnsupported, "create", args{"allow": rules}); e.Remedy == "" {
		t.Errorf("%+v", e)
	}

	offline := over(t, openRuntime(t, runtimetest.New("docker"), runtime.Limits{}))
	offline.refused(runtime.CodeDenied, "create", args{"allow": rules})
}

func TestResourcesList(t *testing.T) {
	c := inMemory(t, runtime.Limits{})
	box := must[runtime.SandboxInfo](c, "create", nil).ID
	list, err := c.ListResources(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var uris []string
	for _, r := range list.Resources {
		uris = append(uris, r.URI)
		if _, err := c.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: r.URI}); err != nil {
			t.Errorf("%s: %v", r.URI, err)
		}
	}
	if !slices.Contains(uris, "aether://ranking") || !slices.Contains(uris, "aether://sandboxes/"+box) {
		t.Errorf("%v", uris)
	}
	for _, uri := range []string{"aether://sandboxes/sbnone", "aether://outputs/x/y", "aether://sandboxes/sbnone/files/etc", "aether://sandboxes/" + box + "/diff/sbnone", "file:///etc/passwd", "aether://outputs/x"} {
		if _, err := c.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: uri}); err == nil {
			t.Errorf("%s was read", uri)
		}
	}
}

func TestProgress(t *testing.T) {
	c := inMemory(t, runtime.Limits{})
	params := &sdk.CallToolParams{Name: "run", Arguments: args{"command": "echo first; sleep 1; echo second"}}
	params.SetProgressToken("t1")
	res, err := c.CallTool(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if got := structured[runtime.RunResult](t, res); got.Stdout != "first\nsecond\n" {
		t.Errorf("%+v", got)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.progress) == 0 || c.progress[0].Message != "first\n" || c.progress[0].ProgressToken != "t1" {
		t.Errorf("%d notifications", len(c.progress))
	}
}

func TestCancelEndsTheProgram(t *testing.T) {
	c := inMemory(t, runtime.Limits{})
	box := must[runtime.SandboxInfo](c, "create", nil).ID
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for c.driver.running.Load() == 0 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if _, err := c.CallTool(ctx, &sdk.CallToolParams{Name: "run", Arguments: args{"sandbox": box, "command": "sleep 60"}}); err == nil {
		t.Fatal("it was not cancelled")
	}
	c.driver.waitFor(t, 0)
}
