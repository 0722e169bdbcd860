package rest

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/sandbox"
)

func (s *site) testTemplates(t *testing.T) {
	req := NewTemplate{Name: "py", MemoryMiB: 64, WarmUp: []string{"write /f warm", "echo ready"}}
	s.header.Set("Idempotency-Key", "t1")
	made := call[runtime.TemplateInfo](t, s, "POST", "/v1/templates", req, 201)
	if again := call[runtime.TemplateInfo](t, s, "POST", "/v1/templates", req, 201); again.ID != made.ID || made.MemoryMiB != 64 || len(made.WarmUp) != 2 {
		t.Errorf("%+v and %+v", made, again)
	}
	s.header.Del("Idempotency-Key")
	for _, name := range []string{"py", made.ID} {
		if got := call[runtime.TemplateInfo](t, s, "GET", "/v1/templates/"+name, nil, 200); got.ID != made.ID {
			t.Errorf("%+v", got)
		}
		sb := call[Sandbox](t, s, "POST", "/v1/sandboxes", Spec{Template: name, TTLS: 1000}, 201)
		if sb.Template != made.ID || sb.MemoryMiB != 64 || sb.ExpiresIn == nil {
			t.Errorf("%+v", sb)
		}
		if res := call[runtime.RunResult](t, s, "POST", "/v1/sandboxes/"+sb.ID+"/run", Run{Shell: "cat /f"}, 200); res.Stdout != "warm" {
			t.Errorf("%+v", res)
		}
	}
	if res := call[runtime.RunResult](t, s, "POST", "/v1/run", RunAlone{Run: Run{Shell: "cat /f"}, Ephemeral: Spec{Template: "py"}}, 200); res.Stdout != "warm" {
		t.Errorf("%+v", res)
	}
	s.refused(t, "POST", "/v1/sandboxes", Spec{Template: "py", MemoryMiB: 128}, 422, runtime.CodeInvalid)
	s.refused(t, "POST", "/v1/sandboxes", Spec{Template: "none"}, 404, runtime.CodeNotFound)
	s.refused(t, "POST", "/v1/templates", NewTemplate{Name: "Not a name"}, 422, runtime.CodeInvalid)
	if p := s.refused(t, "POST", "/v1/templates", NewTemplate{Name: "bad", WarmUp: []string{"exit 3"}}, 422, runtime.CodeInvalid); !strings.Contains(p.Cause, "exit") {
		t.Errorf("%+v", p)
	}
	call[runtime.TemplateInfo](t, s, "POST", "/v1/templates", NewTemplate{Name: "second"}, 201)
	type list struct {
		Templates []runtime.TemplateInfo
		Next      string
	}
	first := call[list](t, s, "GET", "/v1/templates?limit=1", nil, 200)
	second := call[list](t, s, "GET", "/v1/templates?limit=1&cursor="+first.Next, nil, 200)
	if len(first.Templates) != 1 || first.Templates[0].ID != made.ID || len(second.Templates) != 1 || second.Templates[0].Name != "second" || second.Next != "" {
		t.Errorf("%+v, %+v", first, second)
	}

	// Another tenant sees it when it is shared.
	other := s.as(s.tenant(t, "guests"))
	other.refused(t, "GET", "/v1/templates/py", nil, 404, runtime.CodeNotFound)
	if got := call[runtime.TemplateInfo](t, s, "PUT", "/v1/templates/py/sharing", map[string]bool{"shared": true}, 200); !got.Shared {
		t.Errorf("%+v", got)
	}
	if got := call[runtime.TemplateInfo](t, other, "GET", "/v1/templates/py", nil, 200); !got.Foreign || got.WarmUp != nil {
		t.Errorf("%+v", got)
	}
	other.refused(t, "DELETE", "/v1/templates/py", nil, 403, runtime.CodeDenied)
	call[any](t, s, "PUT", "/v1/templates/py/sharing", map[string]bool{"shared": false}, 200)
	other.refused(t, "GET", "/v1/templates/py", nil, 404, runtime.CodeNotFound)
	call[any](t, s, "DELETE", "/v1/tenants/guests", nil, 204)

	for _, name := range []string{"py", "second"} {
		call[any](t, s, "DELETE", "/v1/templates/"+name, nil, 204)
		s.refused(t, "GET", "/v1/templates/"+name, nil, 404, runtime.CodeNotFound)
	}
}

// Only the owner shares, and a system without templates says what to do.
func TestTemplatesOfTenants(t *testing.T) {
	s := serve(t, nil)
	s.refused(t, "PUT", "/v1/templates/py/sharing", map[string]bool{"shared": true}, 404, runtime.CodeNotFound)

	plain := serve(t, func(_ *Config, rc *runtime.Config) {
		rc.Drivers[0] = struct{ sandbox.Driver }{rc.Drivers[0]}
	})
	if p := plain.refused(t, "POST", "/v1/templates", NewTemplate{Name: "py"}, 501, runtime.CodeUnsupported); p.Remedy == "" {
		t.Errorf("%+v", p)
	}
}

// The making is told as it goes on.
func TestTemplateProgress(t *testing.T) {
	s := serve(t, nil)
	stream := func(body string) (names []string, last string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/templates", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+s.token)
		req.Header.Set("Accept", eventStream)
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		raw, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 {
			t.Fatal(res.Status, err)
		}
		for event := range strings.SplitSeq(strings.TrimSpace(string(raw)), "\n\n") {
			name, data, _ := strings.Cut(strings.TrimPrefix(event, "event: "), "\ndata: ")
			var p sandbox.TemplateProgress
			if name == "progress" && json.Unmarshal([]byte(data), &p) == nil {
				name = string(p.Stage)
			}
			names, last = append(names, name), data
		}
		return names, last
	}
	names, last := stream(`{"name":"py","warm_up":["echo one"]}`)
	if got := strings.Join(names, " "); got != "boot warm-up stdout freeze write trial finish result" || !strings.Contains(last, `"name":"py"`) {
		t.Errorf("%s: %s", got, last)
	}
	names, last = stream(`{"name":"py","warm_up":["exit 1"]}`)
	if got := strings.Join(names, " "); got != "boot warm-up error" || !strings.Contains(last, `"remedy"`) {
		t.Errorf("%s: %s", got, last)
	}
	var p Problem
	if err := json.Unmarshal([]byte(last), &p); err != nil || p.Code != runtime.CodeInvalid {
		t.Errorf("%s, %v", last, err)
	}
}
