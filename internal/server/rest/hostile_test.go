package rest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/sandbox"
)

// raw sends the head of a request, and what there is of its body, on a connection of its own.
func (s *site) raw(t *testing.T, method, path, header, body string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n%s\r\n%s", method, path, s.token, header, body); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestClientThatDoesNotRead holds up nobody who ends what it has asked for.
func TestClientThatDoesNotRead(t *testing.T) {
	const request = "--b\r\nContent-Disposition: form-data; name=\"request\"\r\n\r\n{\"args\":[\"cat\",\"/big\"]}\r\n--b\r\nContent-Disposition: form-data; name=\"stdin\"\r\n\r\n"
	run := `{"shell":"cat /big"}`
	for name, c := range map[string]struct{ method, path, header, body string }{
		"download": {"GET", "/files?path=/big", "", ""},
		"run":      {"POST", "/run", fmt.Sprintf("Accept: text/event-stream\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", len(run)), run},
		"exec":     {"POST", "/exec", "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n", request},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, nil)
			s.driver.Files = map[string]string{"/big": strings.Repeat("x", 32<<20)}
			at := "/v1/sandboxes/" + s.create(t)
			s.raw(t, c.method, at+c.path, c.header, c.body)
			for end := time.Now().Add(10 * time.Second); call[Sandbox](t, s, "GET", at, nil, 200).KillIn != nil; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("it has not begun")
				}
			}
			time.Sleep(200 * time.Millisecond) // until the connection is full
			tenants, err := s.rt.Tenants(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- s.rt.RemoveTenant(t.Context(), tenants[0].ID) }()
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(lastWrite + 10*time.Second):
				t.Error("the end of the tenant waits for its client")
				s.CloseClientConnections()
				t.Log(<-done)
			}
		})
	}
}

// TestClientGoesWithinRanges asks for many parts of a file and goes: nothing may read on behind the request.
func TestClientGoesWithinRanges(t *testing.T) {
	s := serve(t, nil)
	s.driver.Files = map[string]string{"/big": strings.Repeat("x", 1<<20)}
	at := "/v1/sandboxes/" + s.create(t) + "/files?path=/big"
	ranges := "Range: bytes=0-9999" + strings.Repeat(",20000-29999,5-9999", 2000) + "\r\n"
	for i := range 50 {
		conn := s.raw(t, "GET", at, ranges, "")
		_, _ = io.ReadFull(conn, make([]byte, 1+i*1000))
		_ = conn.Close()
	}
}

func (s *site) answers(t *testing.T, conn net.Conn, status int) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Errorf("a client that sends nothing gets no answer: %v", err)
		return
	}
	_ = res.Body.Close()
	if res.StatusCode != status {
		t.Errorf("%s, want %d", res.Status, status)
	}
}

// TestUploadFails while the client sends nothing: it hears of it.
func TestUploadFails(t *testing.T) {
	s := serve(t, nil)
	const header = "Content-Length: 1000\r\n"
	at := "/v1/sandboxes/" + s.create(t) + "/files?path=/f"
	s.answers(t, s.raw(t, "PUT", "/v1/sandboxes/sbaaaaaaaaaa/files?path=/f", header, "x"), 404)
	s.driver.OnWrite = func(r io.Reader) error {
		go func() { _, _ = io.Copy(io.Discard, r) }() // as one that sends beside what it hears
		time.Sleep(100 * time.Millisecond)
		return errors.New("no more")
	}
	s.answers(t, s.raw(t, "PUT", at, header, "x"), 500)
}

// TestNoAuthAsksForMore than whoever comes without a token has.
func TestNoAuthAsksForMore(t *testing.T) {
	want := []runtime.Capability{"read", "exec", "fork", "network"}
	for name, change := range map[string]func(*Config, *runtime.Config){
		"whoever comes": func(c *Config, _ *runtime.Config) { c.Guard.NoAuth = true },
		"the owner":     func(c *Config, _ *runtime.Config) { c.Guard.Owner, c.Guard.Limited = true, true },
	} {
		s := serve(t, change)
		if got := call[Session](t, s, "POST", "/v1/sessions", NewSession{ID: "x", Capabilities: want}, 201); len(got.Capabilities) != 3 {
			t.Errorf("%s: the session may %v", name, got.Capabilities)
		}
		s.header.Set("Aether-Session", "x")
		s.refused(t, "POST", "/v1/sandboxes", Spec{Network: sandbox.NetworkOutbound}, 403, runtime.CodeDenied)
	}
	s := serve(t, func(c *Config, rc *runtime.Config) { c.Guard.NoAuth, rc.Capabilities = true, want })
	if got := call[Session](t, s, "POST", "/v1/sessions", NewSession{Capabilities: want}, 201); len(got.Capabilities) != 4 {
		t.Errorf("where the runtime gives all, the session may %v", got.Capabilities)
	}
}

// TestDirectoryByPages reads no more of a directory than what is asked for.
func TestDirectoryByPages(t *testing.T) {
	s := serve(t, nil)
	const n = 2500
	s.driver.Files = map[string]string{}
	for i := range n {
		s.driver.Files[fmt.Sprintf("/d/%04d", i)] = ""
	}
	at := "/v1/sandboxes/" + s.create(t) + "/entries?path=/d&limit=1000&cursor="
	type list struct {
		Entries []runtime.Entry
		Next    string
	}
	seen, pages, next := 0, 0, ""
	for {
		part := call[list](t, s, "GET", at+next, nil, 200)
		for _, e := range part.Entries {
			if want := fmt.Sprintf("%04d", seen); e.Name != want {
				t.Fatalf("entry %s, want %s", e.Name, want)
			}
			seen++
		}
		pages++
		if part.Next == "" {
			break
		}
		next = part.Next
	}
	if seen != n || pages != 3 {
		t.Errorf("%d entries in %d pages", seen, pages)
	}
	reads := 0
	for _, e := range call[struct{ Entries []AuditEntry }](t, s, "GET", "/v1/audit?limit=1000", nil, 200).Entries {
		if e.Op == "read" {
			reads++
		}
	}
	if reads != pages {
		t.Errorf("%d pages were read %d times", pages, reads)
	}
	s.refused(t, "GET", strings.Replace(at, "/d&", "/etc&", 1)+next, nil, 422, runtime.CodeInvalid) // of another directory
}

// TestStreamsEndWithTheirToken when it is replaced.
func TestStreamsEndWithTheirToken(t *testing.T) {
	s := serve(t, nil)
	id := s.create(t)
	process := call[runtime.RunResult](t, s, "POST", "/v1/sandboxes/"+id+"/run", Run{Shell: "sleep 1000", Background: true}, 200).Process
	feed := s.follow(t, "")
	defer feed.close()
	feed.next(t)
	stream := make(chan string, 1)
	req := s.request(t, "GET", "/v1/processes/"+process+"/stream", nil)
	go func() {
		_, raw := s.send(t, req)
		stream <- string(raw)
	}()
	tenants, err := s.rt.Tenants(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // until both are open
	token, err := s.rt.NewToken(t.Context(), tenants[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	s.as(token).create(t)
	if e := feed.next(t); e.name != "error" || !strings.Contains(e.data, `"unauthenticated"`) {
		t.Errorf("the feed goes on with %+v", e)
	}
	select {
	case raw := <-stream:
		if !strings.Contains(raw, `"unauthenticated"`) {
			t.Errorf("the stream ended with %s", raw)
		}
	case <-time.After(followWait + 10*time.Second):
		t.Error("the stream goes on")
		call[any](t, s.as(token), "POST", "/v1/processes/"+process+"/signal", map[string]any{"signal": "KILL"}, 200)
		<-stream
	}
}

// TestViewTokenOnlyLooks lets nothing go on, and keeps nothing alive.
func TestViewTokenOnlyLooks(t *testing.T) {
	s := serve(t, func(c *Config, _ *runtime.Config) { c.Guard.Views = true })
	view := s.viewer(t)
	at := "/v1/sandboxes/" + s.create(t)
	call[Sandbox](t, s, "POST", at+"/pause", nil, 200)
	for _, path := range []string{"/files?path=/etc/os-release", "/entries?path=/etc"} {
		view.refused(t, "GET", at+path, nil, 409, runtime.CodeConflict)
	}
	view.refused(t, "GET", at+"/egress", nil, 501, runtime.CodeUnsupported) // needs no sandbox that runs; this system has none
	if got := call[Sandbox](t, s, "GET", at, nil, 200); got.State != runtime.StatePaused {
		t.Errorf("a look has let it go on: %s", got.State)
	}
	call[any](t, s, "GET", at+"/entries?path=/etc", nil, 200) // who may lets it go on

	at = "/v1/sandboxes/" + call[Sandbox](t, s, "POST", "/v1/sandboxes", Spec{Idle: Idle{KillS: 2}}, 201).ID
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		res, _ := view.send(t, view.request(t, "GET", at+"/files?path=/etc/os-release", nil))
		if res.StatusCode == http.StatusGone {
			break
		}
		if time.Now().After(end) {
			t.Fatal("who looks keeps a sandbox that is idle")
		}
	}
}

func TestStdinOfAnyBytes(t *testing.T) {
	s := serve(t, nil)
	id := call[runtime.RunResult](t, s, "POST", "/v1/sandboxes/"+s.create(t)+"/run", Run{Shell: "cat", Background: true}, 200).Process
	at := "/v1/processes/" + id
	s.refused(t, "POST", at+"/stdin", map[string]any{"data": "no base64", "encoding": "base64"}, 422, runtime.CodeInvalid)
	call[Process](t, s, "POST", at+"/stdin", map[string]any{"data": "/+KC", "encoding": "base64", "close": true}, 200)
	_, raw := s.send(t, s.request(t, "GET", at+"/stream", nil))
	if list := parseEvents(raw); len(list) == 0 || list[0].data != `{"text":"/+KC","encoding":"base64"}` {
		t.Errorf("%s", raw)
	}
}
