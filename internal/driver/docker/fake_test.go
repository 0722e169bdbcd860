package docker

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// fakeEngine answers as a Docker Engine of API 1.41 with one image does. Tests replace handlers.
type fakeEngine struct {
	t      *testing.T
	host   string
	mux    map[string]http.HandlerFunc // by operation, see there
	mu     sync.Mutex
	seen   []string
	conns  sync.WaitGroup // hijacked connections that are still served
	digest string
}

func newFakeEngine(t *testing.T) *fakeEngine {
	t.Helper()
	dir := testenv.TempRun(t)
	t.Setenv("AETHER_STATE", t.TempDir())
	t.Setenv("AETHER_AGENT", os.Args[0])
	t.Setenv("DOCKER_API_VERSION", "")
	f := &fakeEngine{t: t, host: "unix://" + filepath.Join(dir, "fake.sock"), digest: "sha256:" + strings.Repeat("0", 64)}
	f.mux = map[string]http.HandlerFunc{
		"HEAD /_ping": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.41") },
		"GET /info": reply(http.StatusOK, map[string]any{
			"OSType": "linux", "ServerVersion": "20.10.24", "DefaultRuntime": "runc", "NCPU": 2, "Driver": "overlay2",
			"Runtimes": map[string]any{"runc": map[string]any{"path": "runc"}, "runsc": map[string]any{"path": "/usr/bin/runsc"}},
		}),
		"GET /images/{id}/json": reply(http.StatusOK, map[string]any{
			"Id": "sha256:image", "RepoTags": []string{"x"}, "Config": map[string]any{"Labels": map[string]string{labelImage: f.digest}}}),
		"POST /containers/create":       reply(http.StatusCreated, map[string]any{"Id": "c1"}),
		"POST /containers/{id}/start":   reply(http.StatusNoContent, nil),
		"DELETE /containers/{id}":       reply(http.StatusNoContent, nil),
		"POST /containers/{id}/exec":    reply(http.StatusCreated, map[string]any{"Id": "e1"}),
		"GET /exec/{id}/json":           reply(http.StatusOK, map[string]any{"ID": "e1", "Running": false, "ExitCode": 0, "Pid": 7}),
		"GET /containers/{id}/json":     reply(http.StatusOK, map[string]any{"Id": "c1", "State": map[string]any{"Running": true, "Pid": 7}}),
		"GET /containers/json":          reply(http.StatusOK, []any{}),
		"GET /images/json":              reply(http.StatusOK, []any{}),
		"GET /networks/{id}":            refuse(http.StatusNotFound, "network bridge not found"),
		"POST /images/create":           refuse(http.StatusInternalServerError, "not expected here"),
		"POST /containers/{id}/pause":   refuse(http.StatusConflict, "Container c1 is already paused"),
		"DELETE /images/{id}":           reply(http.StatusOK, []any{}),
		"POST /commit":                  reply(http.StatusCreated, map[string]any{"Id": "sha256:snap"}),
		"POST /containers/{id}/unpause": reply(http.StatusNoContent, nil),
		"GET /containers/{id}/stats":    reply(http.StatusOK, map[string]any{}),
		"POST /exec/{id}/start":         f.stream(func(io.Reader, func(byte, string)) {}),
	}
	l, err := net.Listen("unix", strings.TrimPrefix(f.host, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: f}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); f.conns.Wait() })
	return f
}

func (f *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op := operation(r.Method, r.URL.Path)
	f.mu.Lock()
	f.seen = append(f.seen, r.Method+" "+r.URL.Path)
	handler := f.mux[op]
	f.mu.Unlock()
	if handler == nil {
		f.t.Errorf("unexpected request %s (%s)", r.URL.Path, op)
		handler = refuse(http.StatusNotFound, "page not found")
	}
	handler(w, r)
}

func (f *fakeEngine) handle(op string, h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mux[op] == nil {
		f.t.Fatalf("no such operation: %s", op)
	}
	f.mux[op] = h
}

// requests returns those seen that contain part.
func (f *fakeEngine) requests(part string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []string
	for _, s := range f.seen {
		if strings.Contains(s, part) {
			found = append(found, s)
		}
	}
	return found
}

// driver returns a driver of the fake.
func (f *fakeEngine) driver() *Driver {
	f.t.Helper()
	d, err := New(Options{Host: f.host})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := d.Close(); err != nil {
			f.t.Errorf("close driver: %v", err)
		}
	})
	return d
}

func (f *fakeEngine) spec() sandbox.Spec {
	return sandbox.Spec{Image: sandbox.Image{Digest: f.digest, Rootfs: "/no/such/rootfs"}}
}

func (f *fakeEngine) create() *Sandbox {
	f.t.Helper()
	b, err := f.driver().Create(f.t.Context(), f.spec())
	if err != nil {
		f.t.Fatal(err)
	}
	return b.(*snapshotting).Sandbox
}

func reply(status int, body any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if body == nil {
			w.WriteHeader(status)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
}

func refuse(status int, message string) http.HandlerFunc {
	return reply(status, map[string]string{"message": message})
}

// stream turns the connection into a program's streams: program gets standard input and a function
// that writes a frame.
func (f *fakeEngine) stream(program func(stdin io.Reader, frame func(stream byte, text string))) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f.conns.Add(1)
		defer f.conns.Done()
		_, _ = io.Copy(io.Discard, r.Body)
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			f.t.Errorf("hijack: %v", err)
			return
		}
		defer func() { _ = conn.Close() }()
		fmt.Fprint(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		program(bufio.NewReader(rw), func(stream byte, text string) {
			_, _ = conn.Write(frame(stream, text))
		})
	}
}

func frame(stream byte, text string) []byte {
	n := len(text)
	return append([]byte{stream, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, text...)
}
