package access

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// TestHurry answers a client without a token that sends nothing, and lets one with a token take its time.
func TestHurry(t *testing.T) {
	const limit = 300 * time.Millisecond
	rt, err := runtime.Open(t.Context(), runtime.Config{StateDir: filepath.Join(t.TempDir(), "state"),
		Drivers: []sandbox.Driver{runtimetest.New("gvisor")}, Images: &runtimetest.Images{}, DefaultImage: "base"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rt.Close() }()
	_, token, err := rt.CreateTenant(t.Context(), runtime.TenantSpec{Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	handler := Guard{Runtime: rt}.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
	}), func(w http.ResponseWriter, _ *http.Request, status int, _ error) { w.WriteHeader(status) })
	server := httptest.NewServer(hurry(handler, limit))
	defer server.Close()
	for _, c := range []struct {
		token string
		want  int
	}{{"wrong", http.StatusUnauthorized}, {token, http.StatusOK}} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_, err = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 4\r\n\r\n", c.token)
		if err != nil {
			t.Fatal(err)
		}
		if c.want == http.StatusOK {
			time.Sleep(2 * limit)
			_, _ = io.WriteString(conn, "body")
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("no answer, want %d: %v", c.want, err)
		}
		_ = res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("%s, want %d", res.Status, c.want)
		}
	}
}
