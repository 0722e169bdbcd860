package rest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// site is the API on a real server, over a system in memory. Every JSON answer is compared with the description.
type site struct {
	*httptest.Server
	rt     *runtime.Runtime
	driver *runtimetest.Driver
	token  string
	header http.Header // that every request has
	check  *checker
}

// checker compares requests and answers with the description, and notes which operations were used.
type checker struct {
	v    validator.Validator
	doc  map[string]any
	mu   sync.Mutex
	used map[string]bool // operation IDs
}

func serve(t *testing.T, change func(*Config, *runtime.Config)) *site {
	t.Helper()
	s := &site{driver: runtimetest.New("gvisor"), header: http.Header{}}
	s.driver.Forks = true
	cfg := Config{Version: "test"}
	rc := runtime.Config{StateDir: filepath.Join(t.TempDir(), "state"), Drivers: []sandbox.Driver{runtimetest.NewKeeper(s.driver)}, Images: &runtimetest.Images{}, DefaultImage: "base"}
	if change != nil {
		change(&cfg, &rc)
	}
	rt, err := runtime.Open(t.Context(), rc)
	if err != nil {
		t.Fatal(err)
	}
	s.rt, cfg.Guard.Runtime = rt, rt
	s.Server = httptest.NewServer(Handler(cfg))
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
		s.Close()
		if n, _ := s.driver.Left(); n != 0 {
			t.Errorf("%d sandboxes are left", n)
		}
	})
	if !cfg.Guard.NoAuth && !cfg.Guard.Owner {
		s.token = s.tenant(t, "one")
	}
	s.check = newChecker(t, s.URL)
	return s
}

func (s *site) tenant(t *testing.T, name string) (token string) {
	t.Helper()
	_, token, err := s.rt.CreateTenant(t.Context(), runtime.TenantSpec{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// as is the site for another token.
func (s *site) as(token string) *site {
	c := *s
	c.token, c.header = token, http.Header{}
	return &c
}

// viewer is the site for a view token of its tenant.
func (s *site) viewer(t *testing.T) *site {
	t.Helper()
	tenants, err := s.rt.Tenants(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.rt.NewViewToken(t.Context(), tenants[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	return s.as(token)
}

func newChecker(t *testing.T, url string) *checker {
	t.Helper()
	raw := fetch(t, url+"/v1/openapi.json")
	doc, err := libopenapi.NewDocument(raw)
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(doc)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	c := &checker{v: v, used: map[string]bool{}}
	if err := json.Unmarshal(raw, &c.doc); err != nil {
		t.Fatal(err)
	}
	return c
}

func fetch(t *testing.T, url string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, res.Status, err)
	}
	return raw
}

// operation is that of a method and a path, as the description has it.
func (c *checker) operation(method, path string) string {
	paths, _ := c.doc["paths"].(map[string]any)
	want := strings.Split(path, "/")
next:
	for template, item := range paths {
		have := strings.Split(template, "/")
		if len(have) != len(want) {
			continue
		}
		for i := range have {
			if have[i] != want[i] && !strings.HasPrefix(have[i], "{") {
				continue next
			}
		}
		if op, ok := item.(map[string]any)[strings.ToLower(method)].(map[string]any); ok {
			id, _ := op["operationId"].(string)
			return id
		}
	}
	return ""
}

func (s *site) request(t *testing.T, method, path string, body any) *http.Request {
	t.Helper()
	var r io.Reader = http.NoBody
	switch b := body.(type) {
	case nil:
	case io.Reader:
		r = b
	case string:
		r = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, r)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, values := range s.header {
		req.Header[name] = values
	}
	if s.token != "" {
		req.Header.Set("Authorization", "Bearer "+s.token)
	}
	return req
}

// answer is one whose body was read.
type answer struct {
	StatusCode    int
	Status        string
	Header        http.Header
	Trailer       http.Header
	ContentLength int64
}

// send sends a request. Its answer's body is read, and compared with the description if that has a form for it.
func (s *site) send(t *testing.T, req *http.Request) (answer, []byte) {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	res.Body = io.NopCloser(bytes.NewReader(raw))
	id := s.check.operation(req.Method, req.URL.Path)
	if id != "" && res.StatusCode < 300 {
		s.check.mu.Lock()
		s.check.used[id] = true
		s.check.mu.Unlock()
	}
	if kind := res.Header.Get("Content-Type"); id != "" && strings.Contains(kind, "json") {
		if good, errs := s.check.v.ValidateHttpResponse(req, res); !good {
			for _, e := range errs {
				t.Errorf("%s %s: %s: %s %v\n%s", req.Method, req.URL.Path, e.Message, e.Reason, e.SchemaValidationErrors, raw)
			}
		}
	}
	return answer{res.StatusCode, res.Status, res.Header, res.Trailer, res.ContentLength}, raw
}

// call sends a request as JSON, wants a status, and decodes the answer.
func call[T any](t *testing.T, s *site, method, path string, body any, status int) T {
	t.Helper()
	var v T
	res, raw := s.send(t, s.request(t, method, path, body))
	if res.StatusCode != status {
		t.Fatalf("%s %s: %s, want %d: %s", method, path, res.Status, status, raw)
	}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, raw)
		}
	}
	return v
}

// refused sends a request that is to fail with a code.
func (s *site) refused(t *testing.T, method, path string, body any, status int, code runtime.Code) Problem {
	t.Helper()
	res, raw := s.send(t, s.request(t, method, path, body))
	var p Problem
	if err := json.Unmarshal(raw, &p); err != nil || res.StatusCode != status || p.Code != code || p.Status != status || p.Cause == "" || p.Remedy == "" ||
		res.Header.Get("Content-Type") != problemType {
		t.Errorf("%s %s: %s, want %d %s with cause and remedy: %s", method, path, res.Status, status, code, raw)
	}
	return p
}

func (s *site) create(t *testing.T) string {
	t.Helper()
	return call[Sandbox](t, s, "POST", "/v1/sandboxes", nil, 201).ID
}

// event is a server-sent one.
type event struct{ id, name, data string }

func parseEvents(raw []byte) (list []event) {
	for block := range strings.SplitSeq(string(raw), "\n\n") {
		if e, ok := parseEvent(block); ok {
			list = append(list, e)
		}
	}
	return list
}

func parseEvent(block string) (e event, ok bool) {
	for line := range strings.SplitSeq(block, "\n") {
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "id":
			e.id = value
		case "event":
			e.name, ok = value, true
		case "data":
			e.data = value
		}
	}
	return e, ok
}
