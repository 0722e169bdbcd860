package docker

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strings"
	"sync"

	"github.com/aethervm/aether/sandbox"
)

// maxMetered bounds what is kept of a body's text; its size is counted to the end.
const maxMetered = 64 << 10

// meter is an http.RoundTripper that reports each exchange to the observer of the request's
// context. Bodies that are not JSON are bulk data and count nothing.
type meter struct{ next http.RoundTripper }

func (m *meter) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if !sandbox.Observed(ctx) {
		return m.next.RoundTrip(req)
	}
	sent := newTally(req.Method + " " + req.URL.RequestURI() + "\n")
	if req.Body != nil && req.Body != http.NoBody && isJSON(req.Header) {
		req = req.Clone(ctx)
		req.Body = &tapped{ReadCloser: req.Body, tally: sent}
	}
	resp, err := m.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	received := newTally(resp.Status + "\n")
	report := func() {
		call := sandbox.Call{Plane: "http", Op: operation(req.Method, req.URL.Path)}
		call.Sent, call.Request = sent.sum()
		call.Received, call.Reply = received.sum()
		sandbox.Observe(ctx, call)
	}
	if !isJSON(resp.Header) {
		report()
		return resp, nil
	}
	resp.Body = &tapped{ReadCloser: resp.Body, tally: received, onClose: report}
	return resp, nil
}

func isJSON(h http.Header) bool {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && kind == "application/json"
}

// tally counts bytes and keeps the first of them. The transport may still read a request's body when
// the reply is there, hence the lock.
type tally struct {
	mu   sync.Mutex
	size int
	text bytes.Buffer
}

func newTally(first string) *tally {
	t := &tally{}
	t.add([]byte(first))
	return t
}

func (t *tally) add(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.size += len(p)
	t.text.Write(p[:min(len(p), maxMetered-t.text.Len())])
}

func (t *tally) sum() (size int, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.size, t.text.String()
}

// tapped is a body that is tallied as it is read.
type tapped struct {
	io.ReadCloser
	tally   *tally
	onClose func()
}

func (t *tapped) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	t.tally.add(p[:n])
	return n, err
}

func (t *tapped) Close() error {
	err := t.ReadCloser.Close()
	if t.onClose != nil {
		t.onClose()
		t.onClose = nil
	}
	return err
}

var (
	versionPrefix = regexp.MustCompile(`^/v[0-9]+\.[0-9]+/`)
	objectName    = regexp.MustCompile(`^/(containers|images|exec|networks)/(.+)/(\w+)$`)
	objectOnly    = regexp.MustCompile(`^/(containers|images|networks)/(.+)$`)
)

// operation names a request without the version and the names of objects:
// "POST /containers/{id}/start".
func operation(method, path string) string {
	path = versionPrefix.ReplaceAllString(path, "/")
	switch {
	case strings.HasSuffix(path, "/containers/create"), path == "/containers/json",
		path == "/images/create", path == "/images/json":
	case method == http.MethodDelete:
		path = objectOnly.ReplaceAllString(path, "/$1/{id}")
	case objectName.MatchString(path):
		path = objectName.ReplaceAllString(path, "/$1/{id}/$3")
	default:
		path = objectOnly.ReplaceAllString(path, "/$1/{id}")
	}
	return method + " " + path
}
