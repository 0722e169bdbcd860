package metrics

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

func open(t *testing.T) *runtime.Runtime {
	t.Helper()
	rt, err := runtime.Open(t.Context(), runtime.Config{StateDir: t.TempDir(), Drivers: []sandbox.Driver{runtimetest.New("gvisor")},
		Images: &runtimetest.Images{}, DefaultImage: "base"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	return rt
}

// work does n times a bit of all, in a session and with names of its own, numbered from the given one.
func work(t *testing.T, rt *runtime.Runtime, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		tenant, _, err := rt.CreateTenant(t.Context(), runtime.TenantSpec{Name: fmt.Sprintf("tenant%d", i)})
		if err != nil {
			t.Fatal(err)
		}
		s, err := rt.OpenSession(t.Context(), tenant.ID, runtime.SessionSpec{ID: fmt.Sprintf("session%d", i), Budget: runtime.Budget{Sandboxes: 1}})
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.Create(t.Context(), runtime.CreateRequest{SandboxSpec: runtime.SandboxSpec{
			MemoryMiB: 128, Labels: map[string]string{fmt.Sprintf("label%d", i): "x"}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Run(t.Context(), runtime.RunRequest{Sandbox: info.ID, Shell: "echo hello"}); err != nil {
			t.Fatal(err)
		}
		for _, bad := range []error{
			second(s.Create(t.Context(), runtime.CreateRequest{})),
			second(s.Run(t.Context(), runtime.RunRequest{Sandbox: fmt.Sprintf("nosuch%d", i), Shell: "true"})),
			second(s.Create(t.Context(), runtime.CreateRequest{SandboxSpec: runtime.SandboxSpec{System: fmt.Sprintf("system%d", i)}})),
		} {
			if bad == nil {
				t.Fatal("it was not refused")
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }

func get(t *testing.T, h http.Handler, change func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:7070/metrics", nil)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestFigures(t *testing.T) {
	rt := open(t)
	h := Handler(Config{Version: "v1", Runtime: rt, NoAuth: true})
	work(t, rt, 0, 3)
	res := get(t, h, nil)
	body := res.Body.Bytes()
	if res.Code != http.StatusOK {
		t.Fatal(res.Code, res.Body)
	}
	for _, line := range []string{
		`aether_build_info{version="v1"} 1`,
		`aether_sandboxes{state="running",system="gvisor"} 3`,
		`aether_sandbox_memory_limit_bytes{state="running",system="gvisor"} 4.02653184e+08`,
		`aether_sessions 3`, `aether_tenants 3`, `aether_draining 0`,
		`aether_operations_total{op="run",result="ok"} 3`,
		`aether_operations_total{op="run",result="not_found"} 3`,
		`aether_budget_refusals_total{of="session",resource="sandboxes"} 6`,
		`aether_operation_duration_seconds_count{op="create"} 9`,
		`aether_operation_overhead_seconds_count{op="run"} 6`,
		`aether_driver_call_duration_seconds_count{call="exec",system="gvisor"} 3`,
		`aether_output_bytes_total 18`, `aether_pool_ready 0`, `aether_pool_requests_total{outcome="hit"} 0`, `aether_pool_sandboxes_total{outcome="made"} 0`,
	} {
		if !strings.Contains(string(body), "\n"+line+"\n") {
			t.Errorf("there is no line %s", line)
		}
	}
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes", "aether_audit_entries_total", "aether_start_time_seconds"} {
		if !regexp.MustCompile(`(?m)^` + name + ` [0-9.e+]+$`).Match(body) {
			t.Errorf("there is no %s", name)
		}
	}
	if t.Failed() {
		t.Logf("%s", body)
	}
	problems, err := testutil.GatherAndLint(registry(open(t), "v1"))
	if err != nil || len(problems) > 0 {
		t.Error(err, problems)
	}
}

// The number of series does not grow with tenants, sessions, sandboxes and what clients may choose.
func TestSeriesAreBounded(t *testing.T) {
	rt := open(t)
	reg := registry(rt, "v1")
	count := func() int {
		t.Helper()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range families {
			if strings.HasPrefix(f.GetName(), "aether_") {
				n += len(f.GetMetric())
			}
		}
		return n
	}
	work(t, rt, 0, 1)
	first := count()
	work(t, rt, 1, 50)
	if again := count(); again != first {
		t.Errorf("%d series with one session, %d with 51", first, again)
	}
}

func TestAccess(t *testing.T) {
	rt := open(t)
	withToken, open := Handler(Config{Runtime: rt, Token: "secret"}), Handler(Config{Runtime: rt, NoAuth: true})
	bearer := func(token string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", token) }
	}
	host := func(name string) func(*http.Request) { return func(r *http.Request) { r.Host = name } }
	for name, c := range map[string]struct {
		h      http.Handler
		change func(*http.Request)
		want   int
	}{
		"the token":                {withToken, bearer("Bearer secret"), 200},
		"in other letters":         {withToken, bearer("bearer secret"), 200},
		"none":                     {withToken, nil, 401},
		"another":                  {withToken, bearer("Bearer secret2"), 401},
		"empty":                    {withToken, bearer("Bearer "), 401},
		"another scheme":           {withToken, bearer("Basic secret"), 401},
		"no token is set":          {Handler(Config{Runtime: rt}), bearer("Bearer "), 401},
		"no token is needed":       {open, nil, 200},
		"localhost":                {open, host("localhost:7070"), 200},
		"IPv6":                     {open, host("[::1]"), 200},
		"a page's name leads here": {open, host("evil.example:7070"), 403},
		"a name like an address":   {open, host("127.0.0.1.evil.example"), 403},
		"post":                     {open, func(r *http.Request) { r.Method = http.MethodPost }, 405},
	} {
		if res := get(t, c.h, c.change); res.Code != c.want {
			t.Errorf("%s: %d, want %d", name, res.Code, c.want)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(Handler(Config{Runtime: open(t), NoAuth: true}))
	server.Listener = l
	server.Start()
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://whatever/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Error(res.Status)
	}
}
