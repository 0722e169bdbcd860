package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/aethervm/aether/internal/runtime"
)

// dial opens a websocket. Without one it returns the status of the answer.
func (s *site) dial(t *testing.T, path string, header ...string) (*websocket.Conn, int) {
	t.Helper()
	h := s.header.Clone()
	if s.token != "" {
		h.Set("Authorization", "Bearer "+s.token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, res, err := websocket.Dial( //nolint:bodyclose // the library gives a body that is read already
		ctx, s.URL+path, &websocket.DialOptions{HTTPHeader: h, Subprotocols: []string{TerminalProtocol}})
	if err != nil {
		if res == nil {
			t.Fatal(err)
		}
		return nil, res.StatusCode
	}
	conn.SetReadLimit(1 << 20)
	t.Cleanup(func() { _ = conn.CloseNow() })
	return conn, http.StatusSwitchingProtocols
}

func say(t *testing.T, c *websocket.Conn, kind websocket.MessageType, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Write(ctx, kind, []byte(text)); err != nil {
		t.Fatalf("send %.40q: %v", text, err)
	}
}

// hear reads until the last message, or the connection's end, for which the event has no type.
func hear(t *testing.T, c *websocket.Conn) (screen string, last TerminalEvent) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		kind, data, err := c.Read(ctx)
		if err != nil {
			if ctx.Err() != nil {
				t.Fatal("nothing comes")
			}
			return screen, last
		}
		if kind == websocket.MessageBinary {
			screen += string(data)
			continue
		}
		if err := json.Unmarshal(data, &last); err != nil {
			t.Fatal(err)
		}
		if last.Type != "skipped" {
			return screen, last
		}
	}
}

func (s *site) testTerminals(t *testing.T) {
	sb := s.create(t)
	conn, _ := s.dial(t, "/v1/sandboxes/"+sb+"/terminal")
	say(t, conn, websocket.MessageText, `{"shell": "sizes; exit 6", "terminal": {"rows": 30, "cols": 90, "term": "vt100"}}`)
	say(t, conn, websocket.MessageText, `{"type": "resize", "rows": 31, "cols": 91}`)
	time.Sleep(100 * time.Millisecond)
	say(t, conn, websocket.MessageBinary, "typed")
	say(t, conn, websocket.MessageText, `{"type": "end"}`)
	if screen, last := hear(t, conn); screen != "30x90 vt100\n31x91\ntyped" || last.Result == nil || *last.Result.ExitCode != 6 || last.Result.Sandbox != sb {
		t.Errorf("%q, %+v", screen, last)
	}
	s.check.use("open-terminal")

	process := call[runtime.RunResult](t, s, "POST", "/v1/sandboxes/"+sb+"/run", Run{Shell: "sizes; exit 7", Background: true, Terminal: &Terminal{}}, 200).Process
	p := call[Process](t, s, "POST", "/v1/processes/"+process+"/resize", map[string]any{"rows": 5, "cols": 6}, 200)
	if p.Terminal == nil || p.Terminal.Rows != 5 {
		t.Errorf("%+v", p)
	}
	s.refused(t, "POST", "/v1/processes/"+process+"/resize", map[string]any{"rows": 0, "cols": 6}, 422, runtime.CodeInvalid)
	conn, _ = s.dial(t, "/v1/processes/"+process+"/terminal?stdout=-4")
	say(t, conn, websocket.MessageBinary, "typed")
	time.Sleep(100 * time.Millisecond)
	call[Process](t, s, "POST", "/v1/processes/"+process+"/stdin", map[string]any{"close": true}, 200)
	if screen, last := hear(t, conn); !strings.HasSuffix(screen, "typed") || last.Process == nil || *last.Process.ExitCode != 7 {
		t.Errorf("%q, %+v", screen, last)
	}
	s.check.use("attach-terminal")
}

func (c *checker) use(operation string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used[operation] = true
}

// TestTerminalsOfOthers are not there, and who may only look opens none: a websocket begins with a GET.
func TestTerminalsOfOthers(t *testing.T) {
	s := serve(t, func(c *Config, _ *runtime.Config) { c.Guard.Views = true })
	sb := s.create(t)
	process := call[runtime.RunResult](t, s, "POST", "/v1/sandboxes/"+sb+"/run", Run{Shell: "sizes", Background: true, Terminal: &Terminal{}}, 200).Process
	plain := call[runtime.RunResult](t, s, "POST", "/v1/sandboxes/"+sb+"/run", Run{Shell: "sleep 100", Background: true}, 200).Process
	other := s.as(s.tenant(t, "two"))
	for _, path := range []string{"/v1/sandboxes/" + sb + "/terminal", "/v1/processes/" + process + "/terminal"} {
		for name, c := range map[string]struct {
			site   *site
			header []string
			status int
		}{
			"another tenant":   {other, nil, 404},
			"a view token":     {s.viewer(t), nil, 403},
			"no token":         {s.as("nonsense"), nil, 401},
			"another origin":   {s, []string{"Origin", "http://evil.example"}, 403},
			"another session":  {s, []string{"Aether-Session", "none"}, 404},
			"the server's own": {s, []string{"Origin", s.URL}, 101},
		} {
			if conn, status := c.site.dial(t, path, c.header...); status != c.status {
				t.Errorf("%s, %s: %d, want %d", path, name, status, c.status)
			} else if conn != nil {
				_ = conn.CloseNow()
			}
		}
	}
	denied := map[string]string{}
	for _, e := range call[runtime.AuditPage](t, s, "GET", "/v1/audit?sandbox="+sb, nil, 200).Entries {
		if e.Result == string(runtime.CodeDenied) {
			denied[e.Op] = e.What["process"]
		}
	}
	if want := map[string]string{"run": "", "attach": process}; !maps.Equal(denied, want) {
		t.Errorf("the audit log has %v as denied, want %v", denied, want)
	}
	conn, _ := s.dial(t, "/v1/processes/"+plain+"/terminal")
	if _, last := hear(t, conn); last.Problem == nil || last.Problem.Code != runtime.CodeConflict {
		t.Errorf("a process without a terminal: %+v", last)
	}
	// Without a websocket there is nothing.
	if res, _ := s.send(t, s.request(t, "GET", "/v1/sandboxes/"+sb+"/terminal", nil)); res.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("no websocket: %s", res.Status)
	}
}

func TestHostileTerminalClients(t *testing.T) {
	s := serve(t, nil)
	sb := s.create(t)
	path := "/v1/sandboxes/" + sb + "/terminal"
	for name, c := range map[string]struct {
		kind  websocket.MessageType
		first string
	}{
		"no text":       {websocket.MessageBinary, `{"shell": "true"}`},
		"no JSON":       {websocket.MessageText, "{"},
		"unknown field": {websocket.MessageText, `{"shell": "true", "x": 1}`},
		"no command":    {websocket.MessageText, `{}`},
		"background":    {websocket.MessageText, `{"shell": "true", "background": true}`},
		"no columns":    {websocket.MessageText, `{"shell": "true", "terminal": {"rows": 3}}`},
	} {
		conn, _ := s.dial(t, path)
		say(t, conn, c.kind, c.first)
		if _, last := hear(t, conn); last.Problem == nil || last.Problem.Code != runtime.CodeInvalid {
			t.Errorf("%s: %+v", name, last)
		}
	}
	for name, later := range map[string]string{
		"no JSON": "{", "no type": "{}", "no size": `{"type": "resize"}`, "huge size": `{"type": "resize", "rows": 65535, "cols": 1}`,
		"too long": `{"type": "` + strings.Repeat("x", 2*terminalMessage) + `"}`,
	} {
		conn, _ := s.dial(t, path)
		say(t, conn, websocket.MessageText, `{"shell": "sizes"}`)
		_ = conn.Write(t.Context(), websocket.MessageText, []byte(later))
		if _, last := hear(t, conn); last.Type == "result" {
			t.Errorf("%s: %+v", name, last)
		}
	}
	// One that types without end at a program that reads nothing is held up, and ends with the sandbox.
	conn, _ := s.dial(t, path)
	say(t, conn, websocket.MessageText, `{"shell": "sleep 1000"}`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for sent := 0; ; sent++ {
		if conn.Write(ctx, websocket.MessageBinary, bytes.Repeat([]byte("x"), terminalMessage)) != nil {
			break
		}
		if sent > 1000 {
			t.Fatal("all of it was taken")
		}
	}
	began := time.Now()
	if res, raw := s.send(t, s.request(t, "DELETE", "/v1/sandboxes/"+sb, nil)); res.StatusCode >= 300 || time.Since(began) > 10*time.Second {
		t.Errorf("%s after %v: %s", res.Status, time.Since(began), raw)
	}
}

// A client that takes nothing holds up no end of its sandbox.
func TestTerminalClientThatTakesNothing(t *testing.T) {
	s := serve(t, nil)
	sb := s.create(t)
	conn, _ := s.dial(t, "/v1/sandboxes/"+sb+"/terminal")
	say(t, conn, websocket.MessageText, `{"shell": "flood 500000000"}`)
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	if res, raw := s.send(t, s.request(t, "DELETE", "/v1/sandboxes/"+sb, nil)); res.StatusCode >= 300 || time.Since(began) > 10*time.Second {
		t.Errorf("%s after %v: %s", res.Status, time.Since(began), raw)
	}
}
