package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// server is an `aether serve` within the test's process.
type server struct {
	url    string
	client *http.Client
	end    func() int // ends it as a signal does, and returns the exit code
}

func startServe(t *testing.T, listen string, args ...string) server {
	t.Helper()
	read, write := io.Pipe()
	ctx, cancel := context.WithCancelCause(t.Context())
	code := make(chan int, 1)
	go func() {
		root := newRoot(&app{out: io.Discard, err: write})
		root.SetArgs(append([]string{"serve", "--listen", listen}, args...))
		code <- diagnose(root.ExecuteContext(ctx)).code
		_ = write.Close()
	}()
	lines := bufio.NewScanner(read)
	serving := regexp.MustCompile(`serving MCP at (\S+)/mcp,`)
	for lines.Scan() {
		if m := serving.FindStringSubmatch(lines.Text()); m != nil {
			go func() { _, _ = io.Copy(io.Discard, read) }()
			s := server{url: m[1], client: http.DefaultClient}
			if path, ok := strings.CutPrefix(listen, "unix:"); ok {
				s.url = "http://localhost"
				s.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, "unix", path)
				}}}
			}
			s.end = func() int {
				cancel(signalError{signal: syscall.SIGTERM})
				select {
				case c := <-code:
					return c
				case <-time.After(time.Minute):
					t.Fatal("it does not end")
				}
				return 0
			}
			t.Cleanup(func() { cancel(nil) })
			return s
		}
		t.Log(lines.Text())
	}
	t.Fatalf("it ended with %d", <-code)
	return server{}
}

func (s server) get(t *testing.T, method, path, token string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(
		`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

func TestServe(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("AETHER_STATE", filepath.Join(dir, "state"))
	t.Setenv("AETHER_RUN", filepath.Join(dir, "run"))
	file, state := filepath.Join(dir, "token"), filepath.Join(dir, "serve")
	var token string
	for _, listen := range []string{"127.0.0.1:0", "unix:" + filepath.Join(dir, "s")} {
		s := startServe(t, listen, "--state", state, "--tenant", "one="+file)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the token's file: %v, %v", info.Mode(), err)
		}
		if path, ok := strings.CutPrefix(listen, "unix:"); ok {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the socket: %v, %v", info, err)
			}
		}
		if token == "" {
			token = strings.TrimSpace(string(text))
		} else if token != strings.TrimSpace(string(text)) {
			t.Error("a valid token was replaced")
		}
		for _, c := range []struct {
			method, path, token string
			want                int
		}{
			{"GET", "/healthz", "", 200}, {"GET", "/readyz", "", 200}, {"GET", "/", "", 200}, {"GET", "/other", "", 404},
			{"POST", "/mcp", "", 401}, {"POST", "/mcp", "no" + token, 401}, {"POST", "/mcp", token, 200},
			{"GET", "/v1", "", 200}, {"GET", "/v1/whoami", "", 401}, {"GET", "/v1/whoami", token, 200}, {"GET", "/v1/tenants", token, 404},
			{"GET", "/console/", "", 200}, {"GET", "/metrics", "", 401}, {"GET", "/metrics", token, 401},
		} {
			if got := s.get(t, c.method, c.path, c.token); got != c.want {
				t.Errorf("%s: %s %s: %d, want %d", listen, c.method, c.path, got, c.want)
			}
		}
		if code := s.end(); code != exitSignal+int(syscall.SIGTERM) {
			t.Errorf("it ended with %d", code)
		}
	}
}
