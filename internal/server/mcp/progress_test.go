package mcp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
)

// soon is how long may take what does not wait for a client: its sandbox's programs are ended in that time.
const soon = 2 * (lastCalls + lastAnswers)

func within(t *testing.T, what string, f func() error) {
	t.Helper()
	begun, done := time.Now(), make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		t.Logf("%s: %v", what, time.Since(begun))
	case <-time.After(soon):
		t.Fatalf("%s waits for a client that does not read", what)
	}
}

// stuckRun is a request for a program that writes, and then runs for long.
func stuckRun(box, meta string) string {
	return `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"_meta":{"progressToken":"p"` + meta + `},"name":"run","arguments":{"sandbox":"` + box +
		`","command":"echo begun; sleep 300"}}}`
}

// readUntil reads up to the end of a text, and not a byte more.
func readUntil(r io.Reader, text string) error {
	var seen []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(seen), text); seen = append(seen, b[0]) {
		if _, err := io.ReadFull(r, b); err != nil {
			return fmt.Errorf("after %q: %w", seen, err)
		}
	}
	return nil
}

// hasResult reads on to the result of the call, which must have a text in it.
func hasResult(t *testing.T, r io.Reader, text string) {
	t.Helper()
	within(t, "the result", func() error {
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			if s := lines.Text(); strings.Contains(s, `"id":2`) {
				if !strings.Contains(s, text) {
					return fmt.Errorf("%s, want %s", s, text)
				}
				return nil
			}
		}
		return errors.New("there is none")
	})
}

// whenEnded tells through a middleware when a call of a tool has ended.
func whenEnded(ch chan<- struct{}) sdk.Middleware {
	return func(next sdk.MethodHandler) sdk.MethodHandler {
		return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
			res, err := next(ctx, method, req)
			if method == "tools/call" {
				ch <- struct{}{}
			}
			return res, err
		}
	}
}

// TestUnreadProgressOverAPipe has a client stop reading in the middle of a notification.
func TestUnreadProgressOverAPipe(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"kill", "remove tenant", "end of the server", "end of the input"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			rt, driver := newRuntime(t, runtime.Limits{})
			tenant, _, err := rt.CreateTenant(t.Context(), runtime.TenantSpec{Name: "one"})
			if err != nil {
				t.Fatal(err)
			}
			session, err := rt.OpenSession(t.Context(), tenant.ID, runtime.SessionSpec{})
			if err != nil {
				t.Fatal(err)
			}
			box, err := session.Create(t.Context(), runtime.CreateRequest{})
			if err != nil {
				t.Fatal(err)
			}
			server := New(Config{Version: "test", Runtime: rt, Session: func(context.Context, *sdk.RequestExtra) (*runtime.Session, error) { return session, nil }})
			calls := make(chan struct{}, 1)
			server.AddReceivingMiddleware(whenEnded(calls))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			in, feed := io.Pipe()
			out, answers := io.Pipe()
			served := make(chan error, 1)
			go func() { served <- ServeStdio(ctx, server, in, answers) }()
			defer func() { _, _ = feed.Close(), out.Close() }()
			go func() { _, _ = io.WriteString(feed, handshake+stuckRun(box.ID, "")+"\n") }()
			if err := readUntil(out, "notifications/progress"); err != nil {
				t.Fatal(err)
			}
			switch how {
			case "kill":
				within(t, how, func() error { return session.Kill(t.Context(), box.ID) })
			case "remove tenant":
				within(t, how, func() error { return rt.RemoveTenant(t.Context(), tenant.ID) })
			case "end of the server":
				cancel()
			default:
				_ = feed.Close()
			}
			within(t, "the call", func() error { <-calls; return nil })
			driver.waitFor(t, 0)
			if want := map[string]error{"end of the server": context.Canceled, "end of the input": errUnread}[how]; want != nil {
				within(t, how, func() error {
					if err := <-served; !errors.Is(err, want) {
						return fmt.Errorf("%w, want %w", err, want)
					}
					return nil
				})
				return
			}
			hasResult(t, out, `"code":"gone"`)
		})
	}
}

// pipeListener accepts connections that hold nothing of what is sent.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l pipeListener) Close() error { close(l.done); return nil }
func (pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// TestUnreadProgressOverHTTP is the same over a connection of HTTP.
func TestUnreadProgressOverHTTP(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"kill", "remove tenant"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			rt, driver := newRuntime(t, runtime.Limits{})
			tenant, token, err := rt.CreateTenant(t.Context(), runtime.TenantSpec{Name: "one"})
			if err != nil {
				t.Fatal(err)
			}
			session, err := rt.OpenSession(t.Context(), tenant.ID, runtime.SessionSpec{ID: "default"})
			if err != nil {
				t.Fatal(err)
			}
			box, err := session.Create(t.Context(), runtime.CreateRequest{})
			if err != nil {
				t.Fatal(err)
			}
			l := pipeListener{make(chan net.Conn), make(chan struct{})}
			cfg := HTTPConfig{Version: "test", Runtime: rt}
			tools := New(Config{Version: "test", Runtime: rt, Session: cfg.session})
			calls := make(chan struct{}, 1)
			tools.AddReceivingMiddleware(whenEnded(calls))
			server := &http.Server{Handler: cfg.handler(tools)}
			go func() { _ = server.Serve(l) }()
			defer func() { _ = server.Close() }()
			conn, far := net.Pipe()
			defer func() { _ = conn.Close() }()
			l.conns <- far
			body := stuckRun(box.ID, `,"io.modelcontextprotocol/protocolVersion":"`+revisionStateless+`","io.modelcontextprotocol/clientCapabilities":{}`)
			if _, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"+
				"Accept: application/json, text/event-stream\r\nMcp-Protocol-Version: %s\r\nMcp-Method: tools/call\r\nMcp-Name: run\r\nContent-Length: %d\r\n\r\n%s",
				token, revisionStateless, len(body), body); err != nil {
				t.Fatal(err)
			}
			if err := readUntil(conn, "notifications/progress"); err != nil {
				t.Fatal(err)
			}
			if how == "kill" {
				within(t, how, func() error { return session.Kill(t.Context(), box.ID) })
			} else {
				within(t, how, func() error { return rt.RemoveTenant(t.Context(), tenant.ID) })
			}
			within(t, "the call", func() error { <-calls; return nil })
			driver.waitFor(t, 0)
			hasResult(t, conn, `"code":"gone"`)
		})
	}
}
