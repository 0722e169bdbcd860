package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/sandbox"
)

// TestEveryOperation uses each operation of the description once at least, and fails for one that is new.
func TestEveryOperation(t *testing.T) {
	s := serve(t, func(c *Config, _ *runtime.Config) { c.Guard.Owner, c.Budget = true, runtime.Budget{Sandboxes: 50} })
	s.header.Set("Aether-Tenant", "one")
	s.tenant(t, "one")

	if about := call[About](t, s, "GET", "/v1", nil, 200); about.Version != "test" || about.Auth != "none" {
		t.Errorf("about: %+v", about)
	}
	call[map[string]any](t, s, "GET", "/v1/openapi.json", nil, 200)
	if who := call[Whoami](t, s, "GET", "/v1/whoami", nil, 200); who.Tenant.Name != "one" {
		t.Errorf("whoami: %+v", who)
	}
	call[any](t, s, "GET", "/v1/systems", nil, 200)
	t.Run("sessions", s.testSessions)
	t.Run("sandboxes", s.testSandboxes)
	t.Run("programs", s.testPrograms)
	t.Run("files", s.testFiles)
	t.Run("diff", s.testDiff)
	t.Run("processes", s.testProcesses)
	t.Run("snapshots", s.testSnapshots)
	t.Run("templates", s.testTemplates)
	t.Run("tenants", s.testTenants)
	audit := call[struct{ Entries []AuditEntry }](t, s, "GET", "/v1/audit?limit=1000", nil, 200)
	if len(audit.Entries) < 20 || audit.Entries[0].Time.Before(audit.Entries[1].Time) {
		t.Errorf("%d entries of the audit log, the newest first", len(audit.Entries))
	}
	t.Run("events", s.testEvents)

	paths, _ := s.check.doc["paths"].(map[string]any)
	for path, item := range paths {
		for method, op := range item.(map[string]any) {
			if id, _ := op.(map[string]any)["operationId"].(string); !s.check.used[id] {
				t.Errorf("%s %s (%s) was not used", method, path, id)
			}
		}
	}
}

func (s *site) testSessions(t *testing.T) {
	one := call[Session](t, s, "POST", "/v1/sessions", NewSession{ID: "s1", Budget: Budget{Sandboxes: 1}}, 201)
	if one.ID != "s1" || len(one.Budget.Lines) != 1 {
		t.Errorf("a session: %+v", one)
	}
	call[Session](t, s, "POST", "/v1/sessions", NewSession{ID: "s1"}, 200)
	call[Session](t, s, "POST", "/v1/sessions", NewSession{}, 201)
	if got := call[Session](t, s, "GET", "/v1/sessions/s1", nil, 200); got.ID != "s1" {
		t.Errorf("%+v", got)
	}
	list := call[struct{ Sessions []Session }](t, s, "GET", "/v1/sessions", nil, 200)
	if len(list.Sessions) != 2 {
		t.Errorf("%+v", list)
	}
	s.header.Set("Aether-Session", "s1")
	id := s.create(t)
	s.refused(t, "POST", "/v1/sandboxes", nil, 429, runtime.CodeBudget)
	s.header.Del("Aether-Session")
	if got := call[Sandbox](t, s, "GET", "/v1/sandboxes/"+id, nil, 200); got.Session != "s1" {
		t.Errorf("without a session it is found in %q", got.Session)
	}
	s.header.Set("Aether-Session", "default")
	s.create(t)
	s.refused(t, "GET", "/v1/sandboxes/"+id, nil, 404, runtime.CodeNotFound)
	s.header.Del("Aether-Session")
	call[any](t, s, "DELETE", "/v1/sessions/s1", nil, 204)
	s.refused(t, "GET", "/v1/sessions/s1", nil, 404, runtime.CodeNotFound)
}

func (s *site) testSandboxes(t *testing.T) {
	spec := Spec{MemoryMiB: 64, TTLS: 1000, Idle: Idle{KillS: -1}, Labels: map[string]string{"a": "b"}, Env: []string{"X=1"}}
	made := call[Sandbox](t, s, "POST", "/v1/sandboxes", spec, 201)
	if made.MemoryMiB != 64 || made.ExpiresIn == nil || *made.ExpiresIn < 900 || made.KillIn != nil || made.Labels["a"] != "b" || made.Session != "default" {
		t.Errorf("made: %+v", made)
	}
	s.refused(t, "POST", "/v1/sandboxes", Spec{Secrets: []runtime.SecretUse{{Name: "nobody-has-it"}}}, 403, runtime.CodeDenied)
	at := "/v1/sandboxes/" + made.ID
	if got := call[Sandbox](t, s, "POST", at+"/pause", nil, 200); got.State != runtime.StatePaused {
		t.Errorf("paused: %+v", got)
	}
	s.refused(t, "GET", at+"/stats", nil, 409, runtime.CodeConflict)
	if got := call[Sandbox](t, s, "POST", at+"/resume", nil, 200); got.State != runtime.StateRunning {
		t.Errorf("resumed: %+v", got)
	}
	if got := call[sandbox.Stats](t, s, "GET", at+"/stats", nil, 200); got.MemoryBytes == 0 {
		t.Errorf("stats: %+v", got)
	}
	s.refused(t, "GET", at+"/egress", nil, 501, runtime.CodeUnsupported)
	s.check.used["get-egress"] = true // the system in memory keeps no record
	forked := call[Forked](t, s, "POST", at+"/fork", Fork{Count: 2, Runs: []Run{{Shell: "env AETHER_FORK"}}}, 201)
	for i, child := range forked.Children {
		if child.Sandbox.Parent != made.ID || child.Run == nil || strings.TrimSpace(child.Run.Stdout) != fmt.Sprint(i) {
			t.Errorf("child %d: %+v %+v", i, child.Sandbox, child.Run)
		}
	}
	call[any](t, s, "DELETE", at, nil, 204)
	call[any](t, s, "DELETE", at, nil, 204)
	if p := s.refused(t, "GET", at, nil, 410, runtime.CodeGone); !strings.Contains(p.Cause, "killed") {
		t.Errorf("gone: %+v", p)
	}
	s.testPages(t)
}

// testPages goes through a listing by pages while it changes.
func (s *site) testPages(t *testing.T) {
	type list struct {
		Sandboxes []Sandbox
		Next      string
	}
	for range 5 {
		s.create(t)
	}
	want := call[list](t, s, "GET", "/v1/sandboxes", nil, 200)
	var got []string
	next := ""
	for range 20 {
		part := call[list](t, s, "GET", "/v1/sandboxes?limit=2&cursor="+next, nil, 200)
		if len(part.Sandboxes) == 0 || len(part.Sandboxes) > 2 {
			t.Fatalf("a page has %d", len(part.Sandboxes))
		}
		for _, sb := range part.Sandboxes {
			got = append(got, sb.ID)
		}
		if len(got) == 2 { // what was shown goes, and the rest stays where it is
			call[any](t, s, "DELETE", "/v1/sandboxes/"+got[1], nil, 204)
		}
		if next = part.Next; next == "" {
			break
		}
	}
	if !slices.EqualFunc(got, want.Sandboxes, func(id string, sb Sandbox) bool { return id == sb.ID }) || want.Next != "" {
		t.Errorf("by pages: %v, want %d in that order", got, len(want.Sandboxes))
	}
	part := call[list](t, s, "GET", "/v1/sandboxes?limit=1", nil, 200)
	for _, bad := range []string{"x", part.Next + "A", "AAAA" + part.Next, strings.Repeat("A", 900)} {
		s.refused(t, "GET", "/v1/sandboxes?cursor="+bad, nil, 422, runtime.CodeInvalid)
	}
	s.refused(t, "GET", "/v1/sessions?cursor="+part.Next, nil, 422, runtime.CodeInvalid) // of another listing
	s.refused(t, "GET", "/v1/sandboxes?limit=0", nil, 422, runtime.CodeInvalid)
	s.refused(t, "GET", "/v1/sandboxes?nonsense=1", nil, 422, runtime.CodeInvalid)
}

func (s *site) testPrograms(t *testing.T) {
	at := "/v1/sandboxes/" + s.create(t)
	if res := call[runtime.RunResult](t, s, "POST", at+"/run", Run{Shell: "cat; exit 3", Input: "in"}, 200); res.Stdout != "in" || *res.ExitCode != 3 {
		t.Errorf("run: %+v", res)
	}
	req := s.request(t, "POST", "/v1/run", `{"args":["echo","hi"]}`)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded") // as curl -d does
	if res, raw := s.send(t, req); res.StatusCode != 200 || !strings.Contains(string(raw), `"hi\n"`) || !strings.Contains(string(raw), `"ephemeral":true`) {
		t.Errorf("run alone: %s %s", res.Status, raw)
	}
	if res := call[runtime.CodeResult](t, s, "POST", at+"/code", Code{Code: "x = 5"}, 200); !res.Fresh {
		t.Errorf("code: %+v", res)
	}
	if res := call[runtime.CodeResult](t, s, "POST", at+"/code", Code{Code: "x"}, 200); res.Value != "5" || res.Fresh {
		t.Errorf("code: %+v", res)
	}
	if res := call[runtime.CodeResult](t, s, "POST", "/v1/code", CodeAlone{Code: Code{Code: "raise oh"}}, 200); res.Error == nil || !res.Ephemeral {
		t.Errorf("code alone: %+v", res)
	}
	for name, bad := range map[string]any{"nothing": Run{}, "two": Run{Shell: "a", Args: []string{"b"}}, "unknown": `{"shell":"a","more":1}`, "no JSON": `{`, "negative": `{"shell":"a","timeout_s":-1}`} {
		res, raw := s.send(t, s.request(t, "POST", at+"/run", bad))
		var p Problem
		if err := json.Unmarshal(raw, &p); err != nil || p.Code != runtime.CodeInvalid || res.StatusCode != 422 && res.StatusCode != 400 || p.Remedy == "" {
			t.Errorf("%s: %s %s", name, res.Status, raw)
		}
	}
	// As it comes.
	req = s.request(t, "POST", at+"/run", Run{Shell: "echo one; stderr two; exit 4"})
	req.Header.Set("Accept", eventStream)
	_, raw := s.send(t, req)
	list := parseEvents(raw)
	if len(list) != 3 || list[0].name != "stdout" || list[1].name != "stderr" || list[2].name != "result" || !strings.Contains(list[2].data, `"exit_code":4`) {
		t.Errorf("events of run: %+v", list)
	}
	// With streams in both directions.
	var body bytes.Buffer
	parts := multipart.NewWriter(&body)
	for _, part := range []struct{ name, data string }{{"request", `{"args":["cat"]}`}, {"stdin", "from here\xff"}} {
		w, err := parts.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="` + part.name + `"`}})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte(part.data))
	}
	_ = parts.Close()
	req = s.request(t, "POST", at+"/exec", &body)
	req.Header.Set("Content-Type", parts.FormDataContentType())
	_, raw = s.send(t, req)
	if list := parseEvents(raw); len(list) < 2 || list[0].data != `{"text":"ZnJvbSBoZXJl/w==","encoding":"base64"}` || !strings.Contains(list[len(list)-1].data, `"exit_code":0`) {
		t.Errorf("events of exec: %s", raw)
	}
	s.refused(t, "POST", at+"/exec", `{"args":["cat"]}`, 422, runtime.CodeInvalid)
}

func (s *site) testProcesses(t *testing.T) {
	sb := s.create(t)
	at := "/v1/sandboxes/" + sb
	id := call[runtime.RunResult](t, s, "POST", at+"/run", Run{Shell: "cat; exit 2", Background: true}, 200).Process
	process := "/v1/processes/" + id
	call[Process](t, s, "POST", process+"/stdin", map[string]any{"data": "one\n"}, 200)
	poll := call[runtime.PollResult](t, s, "GET", process+"?wait_s=10", nil, 200)
	if poll.Stdout.Text != "one\n" || !poll.Running {
		t.Errorf("poll: %+v", poll)
	}
	call[Process](t, s, "POST", process+"/stdin", map[string]any{"data": "two\n", "close": true}, 200)
	_, raw := s.send(t, s.request(t, "GET", process+"/stream?stdout=4", nil))
	if list := parseEvents(raw); len(list) != 2 || list[0].data != `{"text":"two\n"}` || !strings.Contains(list[1].data, `"exit_code":2`) {
		t.Errorf("stream: %s", raw)
	}
	if c := call[runtime.OutputChunk](t, s, "GET", "/v1/outputs/"+id+"?offset=-4", nil, 200); c.Text != "two\n" {
		t.Errorf("output: %+v", c)
	}
	other := call[runtime.RunResult](t, s, "POST", at+"/run", Run{Shell: "sleep 100", Background: true}, 200).Process
	if p := call[Process](t, s, "POST", "/v1/processes/"+other+"/signal", map[string]any{"signal": "KILL"}, 200); p.Signal != "SIGKILL" {
		t.Errorf("killed: %+v", p)
	}
	list := call[struct{ Processes []Process }](t, s, "GET", "/v1/processes?sandbox="+sb, nil, 200)
	if len(list.Processes) != 2 || list.Processes[0].ID != id || list.Processes[0].Session != "default" {
		t.Errorf("%+v", list)
	}
	s.refused(t, "GET", "/v1/processes/prnone", nil, 404, runtime.CodeNotFound)
	t.Run("terminals", s.testTerminals)
	t.Run("trees", s.testTrees)
}

func (s *site) testSnapshots(t *testing.T) {
	id := s.create(t)
	at := "/v1/sandboxes/" + id
	call[any](t, s, "POST", at+"/run", Run{Shell: "write /f before"}, 200)
	s.header.Set("Idempotency-Key", "k1")
	snap := call[runtime.SnapshotInfo](t, s, "POST", at+"/snapshots", map[string]any{"name": "n"}, 201)
	if again := call[runtime.SnapshotInfo](t, s, "POST", at+"/snapshots", map[string]any{"name": "n"}, 201); again.ID != snap.ID {
		t.Errorf("the same key made %s and %s", snap.ID, again.ID)
	}
	s.refused(t, "POST", at+"/snapshots", map[string]any{"name": "other"}, 409, runtime.CodeConflict)
	s.header.Del("Idempotency-Key")
	call[any](t, s, "POST", at+"/run", Run{Shell: "write /f after"}, 200)
	if sb := call[Sandbox](t, s, "POST", at+"/rollback", map[string]any{"snapshot": snap.ID}, 200); sb.ID != id {
		t.Errorf("rolled back: %+v", sb)
	}
	if res := call[runtime.RunResult](t, s, "POST", at+"/run", Run{Shell: "cat /f"}, 200); strings.TrimSpace(res.Stdout) != "before" {
		t.Errorf("after it: %+v", res)
	}
	if sb := call[Sandbox](t, s, "POST", "/v1/snapshots/"+snap.ID+"/restore", nil, 201); sb.Snapshot != snap.ID {
		t.Errorf("restored: %+v", sb)
	}
	list := call[struct{ Snapshots []runtime.SnapshotInfo }](t, s, "GET", "/v1/snapshots", nil, 200)
	if len(list.Snapshots) != 1 || list.Snapshots[0].Kind != sandbox.SnapshotFull {
		t.Errorf("%+v", list)
	}
	call[any](t, s, "GET", "/v1/snapshots/"+snap.ID, nil, 200)
	call[any](t, s, "DELETE", "/v1/snapshots/"+snap.ID, nil, 204)
	s.refused(t, "GET", "/v1/snapshots/"+snap.ID, nil, 404, runtime.CodeNotFound)
}

func (s *site) testTenants(t *testing.T) {
	made := call[TenantToken](t, s, "POST", "/v1/tenants", NewTenant{Name: "two", Budget: &Budget{Sandboxes: 1}}, 201)
	two := s.as(made.Token)
	if who := call[Whoami](t, two, "GET", "/v1/whoami", nil, 200); who.Tenant.Name != "two" {
		t.Errorf("its token is that of %+v", who)
	}
	two.create(t)
	two.refused(t, "POST", "/v1/sandboxes", nil, 429, runtime.CodeBudget)
	if tn := call[Tenant](t, s, "PUT", "/v1/tenants/two/budget", Budget{Sandboxes: 2, WindowS: 3600}, 200); tn.Budget.Sandboxes != 2 || tn.Budget.WindowS != 3600 {
		t.Errorf("budget: %+v", tn)
	}
	box := two.create(t)
	snap := call[runtime.SnapshotInfo](t, two, "POST", "/v1/sandboxes/"+box+"/snapshots", nil, 201)
	kept := call[Tenant](t, s, "PUT", "/v1/tenants/two/budget", Budget{Snapshots: 1, KeptBytes: 1 << 40}, 200)
	if who := call[Whoami](t, two, "GET", "/v1/whoami", nil, 200); len(who.Budget.Lines) != 2 || who.Budget.Lines[0].Left != 0 || who.Budget.Lines[1].Used == 0 || kept.Budget.KeptBytes != 1<<40 {
		t.Errorf("what is kept: %+v", who)
	}
	two.refused(t, "POST", "/v1/sandboxes/"+box+"/snapshots", nil, 429, runtime.CodeBudget)
	call[any](t, two, "DELETE", "/v1/snapshots/"+snap.ID, nil, 204)
	call[any](t, two, "POST", "/v1/sandboxes/"+box+"/snapshots", nil, 201)
	renewed := call[TenantToken](t, s, "POST", "/v1/tenants/two/token", nil, 200)
	two.refused(t, "GET", "/v1/whoami", nil, 401, runtime.CodeUnauthenticated)
	if n := len(call[struct{ Tenants []Tenant }](t, s, "GET", "/v1/tenants", nil, 200).Tenants); n != 2 {
		t.Errorf("%d tenants", n)
	}
	call[any](t, s, "DELETE", "/v1/tenants/two", nil, 204)
	// Without a budget it is the server's own; one that names nothing bounds nothing.
	if made := call[TenantToken](t, s, "POST", "/v1/tenants", NewTenant{Name: "three"}, 201); made.Tenant.Budget != (Budget{Sandboxes: 50}) {
		t.Errorf("without a budget: %+v", made.Tenant)
	}
	if made := call[TenantToken](t, s, "POST", "/v1/tenants", NewTenant{Name: "four", Budget: &Budget{}}, 201); made.Tenant.Budget != (Budget{}) {
		t.Errorf("with none: %+v", made.Tenant)
	}
	s.as(renewed.Token).refused(t, "GET", "/v1/whoami", nil, 401, runtime.CodeUnauthenticated)
	s.refused(t, "DELETE", "/v1/tenants/two", nil, 404, runtime.CodeNotFound)
}

// testEvents follows the feed, and goes on after an event.
func (s *site) testEvents(t *testing.T) {
	feed := s.follow(t, "")
	if e := feed.next(t); e.name != "hello" {
		t.Fatalf("the first event: %+v", e)
	}
	id := s.create(t)
	created := feed.next(t)
	if created.name != "sandbox.created" || !strings.Contains(created.data, id) || created.id == "" {
		t.Errorf("%+v", created)
	}
	forked := call[Forked](t, s, "POST", "/v1/sandboxes/"+id+"/fork", nil, 201).Children[0].Sandbox.ID
	if e := feed.next(t); e.name != "sandbox.forked" || !strings.Contains(e.data, `"parent":"`+id) || !strings.Contains(e.data, forked) {
		t.Errorf("%+v", e)
	}
	call[any](t, s, "DELETE", "/v1/sandboxes/"+forked, nil, 204)
	if e := feed.next(t); e.name != "sandbox.killed" || !strings.Contains(e.data, "it was killed at") {
		t.Errorf("%+v", e)
	}
	feed.close()
	feed = s.follow(t, created.id)
	defer feed.close()
	feed.next(t)
	if e := feed.next(t); e.name != "sandbox.forked" {
		t.Errorf("after %s came %+v", created.id, e)
	}
	old := s.follow(t, "1")
	defer old.close()
	old.next(t)
	if e := old.next(t); e.name != "lost" {
		t.Errorf("after an event of long ago came %+v", e)
	}
	s.check.used["follow-events"] = true
}

// TestTenantsAreApart looks for what another tenant has, by every path that has an ID, and compares the answer with
// that for what there is not.
func TestTenantsAreApart(t *testing.T) {
	s := serve(t, nil)
	id := s.create(t)
	process := call[runtime.RunResult](t, s, "POST", "/v1/sandboxes/"+id+"/run", Run{Shell: "sleep 1000", Background: true}, 200).Process
	snap := call[runtime.SnapshotInfo](t, s, "POST", "/v1/sandboxes/"+id+"/snapshots", nil, 201).ID
	two := s.as(s.tenant(t, "two"))
	two.create(t)
	bodies := map[string]any{"run": Run{Shell: "true"}, "code": Code{Code: "1"}, "rollback": map[string]any{"snapshot": snap}, "stdin": map[string]any{"data": "x"},
		"signal": map[string]any{"signal": "KILL"}, "resize": map[string]any{"rows": 1, "cols": 1}, "edit-file": Edits{[]runtime.Edit{{Old: "a", New: "b"}}}, "upload-file": "data", "upload-tree": "data", "create-tenant": NewTenant{Name: "x"}}
	paths, _ := s.check.doc["paths"].(map[string]any)
	n := 0
	for template, item := range paths {
		for method, op := range item.(map[string]any) {
			opID, _ := op.(map[string]any)["operationId"].(string)
			if !strings.Contains(template, "{") || opID == "exec" || strings.Contains(template, "{session}") {
				continue
			}
			var body any
			for name, b := range bodies {
				if strings.HasSuffix(template, "/"+name) || opID == name {
					body = b
				}
			}
			ask := func(sb, pr, sn string) (int, string) {
				path := strings.NewReplacer("{sandbox}", sb, "{process}", pr, "{output}", pr, "{snapshot}", sn).Replace(template)
				if strings.HasSuffix(path, "/files") || strings.HasSuffix(path, "/entries") || strings.HasSuffix(path, "/tree") {
					path += "?path=/etc/os-release"
				}
				if strings.HasSuffix(path, "/diff") {
					path += "?with=" + sb
				}
				res, raw := two.send(t, two.request(t, strings.ToUpper(method), path, body))
				return res.StatusCode, strings.NewReplacer(sb, "ID", pr, "ID", sn, "ID").Replace(string(raw))
			}
			status, text := ask(id, process, snap)
			status0, text0 := ask("sbaaaaaaaaaa", "praaaaaaaaaa", "snaaaaaaaaaa")
			if status != 404 || status0 != status || text0 != text {
				t.Errorf("%s %s: of another tenant: %d %s\nof nobody: %d %s", method, template, status, text, status0, text0)
			}
			n++
		}
	}
	if n < 20 {
		t.Errorf("%d operations were looked at", n)
	}
	call[any](t, s, "GET", "/v1/sandboxes/"+id, nil, 200)
}

func TestAccess(t *testing.T) {
	s := serve(t, nil)
	for _, path := range []string{"/v1/whoami", "/v1/sandboxes", "/v1/nothing", "/v1/tenants"} {
		s.as("").refused(t, "GET", path, nil, 401, runtime.CodeUnauthenticated)
		s.as("aether_wrong").refused(t, "GET", path, nil, 401, runtime.CodeUnauthenticated)
	}
	s.refused(t, "GET", "/v1/tenants", nil, 404, runtime.CodeNotFound)
	s.refused(t, "PUT", "/v1/sandboxes", nil, 405, runtime.CodeInvalid)
	req := s.request(t, "POST", "/v1/sandboxes", nil)
	req.Header.Set("Origin", "http://elsewhere.example")
	if res, raw := s.send(t, req); res.StatusCode != 403 {
		t.Errorf("from another origin: %s %s", res.Status, raw)
	}
	open := serve(t, func(c *Config, _ *runtime.Config) { c.Guard.NoAuth = true })
	if who := call[Whoami](t, open, "GET", "/v1/whoami", nil, 200); who.Auth != "none" {
		t.Errorf("%+v", who)
	}
	open.refused(t, "POST", "/v1/sandboxes", Spec{Network: sandbox.NetworkOutbound}, 403, runtime.CodeDenied)
	req = open.request(t, "GET", "/v1/whoami", nil)
	req.Host = "rebound.example"
	if res, raw := open.send(t, req); res.StatusCode != 403 {
		t.Errorf("by another name: %s %s", res.Status, raw)
	}
}

// TestViewTokenChangesNothing also by what it opens.
func TestViewTokenChangesNothing(t *testing.T) {
	s := serve(t, func(c *Config, _ *runtime.Config) { c.Guard.Views = true })
	view := s.viewer(t)
	for _, path := range []string{"/v1/whoami", "/v1/sandboxes", "/v1/snapshots", "/v1/processes", "/v1/sessions", "/v1/audit"} {
		call[any](t, view, "GET", path, nil, 200)
	}
	view.refused(t, "POST", "/v1/sandboxes", nil, 403, runtime.CodeDenied)
	s.create(t) // in a session that may
}

// TestClientGoes ends a program whose client has gone.
func TestClientGoes(t *testing.T) {
	s := serve(t, nil)
	at := "/v1/sandboxes/" + s.create(t)
	for _, accept := range []string{"application/json", eventStream} {
		req := s.request(t, "POST", at+"/run", Run{Shell: "sleep 1000"})
		req.Header.Set("Accept", accept)
		client := &http.Client{Timeout: 300 * time.Millisecond}
		if res, err := client.Do(req); err == nil {
			_, err := res.Body.Read(make([]byte, 1))
			if err == nil {
				t.Error("there is output")
			}
			_ = res.Body.Close()
		}
		idle := func() bool {
			return call[Sandbox](t, s, "GET", at, nil, 200).KillIn != nil
		}
		for end := time.Now().Add(10 * time.Second); !idle(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: the program goes on", accept)
			}
		}
	}
}
