package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/access"
)

type site struct {
	*httptest.Server
	rt     *runtime.Runtime
	driver *counted
}

func serveHTTP(t *testing.T, noAuth bool) site {
	t.Helper()
	rt, driver := newRuntime(t, runtime.Limits{})
	server := httptest.NewServer(Handler(HTTPConfig{Version: "test", Runtime: rt, NoAuth: noAuth}))
	t.Cleanup(server.Close)
	return site{server, rt, driver}
}

func (s site) token(t *testing.T, name string) string {
	t.Helper()
	_, token, err := s.rt.CreateTenant(t.Context(), runtime.TenantSpec{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// bearer sends a token, and other headers.
type bearer struct {
	token  string
	header http.Header
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if b.token != "" {
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	for k, v := range b.header {
		r.Header[k] = v
	}
	return http.DefaultTransport.RoundTrip(r)
}

func (s site) client(t *testing.T, b bearer) *client {
	t.Helper()
	return connect(t, &sdk.StreamableClientTransport{Endpoint: s.URL, HTTPClient: &http.Client{Transport: b}})
}

// post sends one request of the protocol as text, of revision 2026-07-28.
func (s site) post(ctx context.Context, t *testing.T, b bearer, method, name, params string) (*http.Response, error) {
	t.Helper()
	meta := `"_meta":{"io.modelcontextprotocol/protocolVersion":"` + revisionStateless + `","io.modelcontextprotocol/clientCapabilities":{}}`
	if params != "" {
		meta += ","
	}
	body := `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{` + meta + params + `}}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("Mcp-Protocol-Version", revisionStateless)
	req.Header.Set("Mcp-Method", method)
	if name != "" {
		req.Header.Set("Mcp-Name", name)
	}
	return b.RoundTrip(req)
}

// TestToolsListIsSmall measures what a client gets, to the last byte: a model's host pays for it in every
// conversation.
func TestToolsListIsSmall(t *testing.T) {
	s := serveHTTP(t, true)
	var first []byte
	for range 3 {
		res, err := s.post(t.Context(), t, bearer{}, "tools/list", "", "")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if len(body) > 8<<10 {
			t.Errorf("tools/list has %d bytes, more than 8 KiB", len(body))
		}
		t.Logf("tools/list: %d bytes", len(body))
		if first == nil {
			first = body
		} else if !bytes.Equal(stripID(first), stripID(body)) {
			t.Error("two lists differ")
		}
	}
	var names []string
	_, list, _ := bytes.Cut(first, []byte("data: "))
	var doc struct {
		Result struct{ Tools []struct{ Name string } }
	}
	if err := json.Unmarshal(list, &doc); err != nil {
		t.Fatalf("%s: %v", first, err)
	}
	for _, tool := range doc.Result.Tools {
		names = append(names, tool.Name)
	}
	want := []string{"create", "run", "code", "process", "read", "write", "fork", "snapshot", "list", "kill"}
	if !slices.Equal(names, want) {
		t.Errorf("tools %v, want %v", names, want)
	}
}

// stripID takes off the ID of the event, which counts streams.
func stripID(body []byte) []byte {
	_, data, _ := bytes.Cut(body, []byte("data: "))
	return data
}

func TestBothRevisionsAtOneAddress(t *testing.T) {
	s := serveHTTP(t, true)
	c := s.client(t, bearer{})
	box := must[runtime.SandboxInfo](c, "create", nil).ID
	// The SDK's client takes the newest revision. An old one is a handshake.
	old := `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"` + revisionSessions +
		`","capabilities":{},"clientInfo":{"name":"old","version":"1"}}}`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, strings.NewReader(old))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil || !strings.Contains(string(body), `"protocolVersion":"`+revisionSessions+`"`) || res.Header.Get("Mcp-Session-Id") == "" {
		t.Errorf("%s, %v, session %q", body, err, res.Header.Get("Mcp-Session-Id"))
	}
	// Sandboxes belong to the tenant, whatever connection made them.
	again := s.client(t, bearer{})
	if l := must[runtime.Listing](again, "list", nil); len(l.Sandboxes) != 1 || l.Sandboxes[0].ID != box {
		t.Errorf("%+v", l.Sandboxes)
	}
	// Another session of the tenant has its own.
	other := s.client(t, bearer{header: http.Header{access.SessionHeader: {"other"}}})
	if l := must[runtime.Listing](other, "list", nil); len(l.Sandboxes) != 0 {
		t.Errorf("%+v", l.Sandboxes)
	}
}

// TestDisconnectCancels is for revision 2026-07-28, where the end of the connection is the only way.
func TestDisconnectCancels(t *testing.T) {
	s := serveHTTP(t, true)
	c := s.client(t, bearer{})
	box := must[runtime.SandboxInfo](c, "create", nil).ID
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		res, err := s.post(ctx, t, bearer{}, "tools/call", "run", `"name":"run","arguments":{"sandbox":"`+box+`","command":"sleep 60"}`)
		if err == nil {
			_, err = io.ReadAll(res.Body)
			_ = res.Body.Close()
		}
		ended <- err
	}()
	s.driver.waitFor(t, 1)
	cancel()
	if err := <-ended; err == nil {
		t.Error("it was answered")
	}
	s.driver.waitFor(t, 0)
}

func TestTenantsAreApart(t *testing.T) {
	s := serveHTTP(t, false)
	one, two := s.client(t, bearer{token: s.token(t, "one")}), s.client(t, bearer{token: s.token(t, "two")})
	box := must[runtime.SandboxInfo](one, "create", nil).ID
	e := two.refusal(runtime.CodeNotFound, "run", args{"sandbox": box, "command": "true"})
	none := two.refusal(runtime.CodeNotFound, "run", args{"sandbox": "sb" + strings.Repeat("0", len(box)-2), "command": "true"})
	if strings.ReplaceAll(e.Cause, box, "ID") != strings.ReplaceAll(none.Cause, none.Sandbox, "ID") && e.Cause != none.Cause {
		t.Errorf("%q tells it from %q", e.Cause, none.Cause)
	}
	if l := must[runtime.Listing](two, "list", nil); len(l.Sandboxes) != 0 {
		t.Errorf("%+v", l.Sandboxes)
	}
	if _, err := two.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "aether://sandboxes/" + box}); err == nil {
		t.Error("another tenant's sandbox was read")
	}
	for _, token := range []string{"", "wrong"} {
		res, err := s.post(t.Context(), t, bearer{token: token}, "tools/list", "", "")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized || res.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("token %q: %s", token, res.Status)
		}
	}
}

// TestSessionIsItsTenants takes over a session of the protocol with the token of somebody else.
func TestSessionIsItsTenants(t *testing.T) {
	s := serveHTTP(t, false)
	send := func(token, session, body string) (status int, id string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json, text/event-stream")
		if session != "" {
			req.Header.Set("Mcp-Session-Id", session)
			req.Header.Set("Mcp-Protocol-Version", revisionSessions)
		}
		res, err := bearer{token: token}.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode, res.Header.Get("Mcp-Session-Id")
	}
	one, two := s.token(t, "one"), s.token(t, "two")
	status, id := send(one, "", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"`+revisionSessions+
		`","capabilities":{},"clientInfo":{"name":"old","version":"1"}}}`)
	if id == "" {
		t.Fatal(status)
	}
	const list = `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`
	for token, want := range map[string]int{one: http.StatusOK, two: http.StatusForbidden, "": http.StatusUnauthorized} {
		if status, _ := send(token, id, list); status != want {
			t.Errorf("token %q: %d, want %d", token, status, want)
		}
	}
}

// hurried is an answer whose connection has a deadline, as access.Hurry sets it.
type hurried struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (h *hurried) SetReadDeadline(time.Time) error      { return nil }
func (h *hurried) SetWriteDeadline(end time.Time) error { h.deadline = end; return nil }

// TestCallsTakeTheirTime lets whoever may call a tool wait for its answer, however long that takes.
func TestCallsTakeTheirTime(t *testing.T) {
	for _, noAuth := range []bool{false, true} {
		rt, _ := newRuntime(t, runtime.Limits{})
		_, token, err := rt.CreateTenant(t.Context(), runtime.TenantSpec{Name: "one"})
		if err != nil {
			t.Fatal(err)
		}
		body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list",` + directMeta + `}}`
		r := callRequest(t.Context(), http.Header{"Mcp-Name": {"list"}, "Authorization": {"Bearer " + token}}, strings.NewReader(body))
		w := &hurried{httptest.NewRecorder(), time.Now().Add(time.Minute)}
		Handler(HTTPConfig{Version: "test", Runtime: rt, NoAuth: noAuth}).ServeHTTP(w, r)
		if w.Code != http.StatusOK || !w.deadline.IsZero() {
			t.Errorf("NoAuth %t: %d, to be taken until %v", noAuth, w.Code, w.deadline)
		}
	}
}

func TestOtherOriginsAreRefused(t *testing.T) {
	s := serveHTTP(t, true)
	for header, value := range map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"} {
		res, err := s.post(t.Context(), t, bearer{header: http.Header{header: {value}}}, "tools/list", "", "")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s: %s", header, value, res.Status)
		}
	}
}

// TestRebindingIsRefused is a page whose name has been made to lead to the loopback interface: to its browser
// the server is of the same origin.
func TestRebindingIsRefused(t *testing.T) {
	s := serveHTTP(t, true)
	send := func(host string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL,
			strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"`+revisionSessions+
				`","capabilities":{},"clientInfo":{"name":"page","version":"1"}}}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		req.Header.Set("Origin", "http://"+host)
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json, text/event-stream")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	_, port, _ := strings.Cut(s.Listener.Addr().String(), ":")
	for host, want := range map[string]int{"evil.example:" + port: http.StatusForbidden, "evil.example": http.StatusForbidden, "localhost:" + port: http.StatusOK} {
		if got := send(host); got != want {
			t.Errorf("%s: %d, want %d", host, got, want)
		}
	}
}

func TestRequestsAreBounded(t *testing.T) {
	s := serveHTTP(t, true)
	res, err := s.post(t.Context(), t, bearer{}, "tools/call", "run",
		`"name":"run","arguments":{"command":"`+strings.Repeat("x", requestSize)+`"}`)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode < 400 || res.StatusCode > 499 || s.driver.Made() != 0 {
		t.Errorf("%s, %d sandboxes", res.Status, s.driver.Made())
	}
}
