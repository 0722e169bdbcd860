package runtime

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aethervm/aether/internal/egress/inject"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

const theSecret = "s3cr3t-that-nobody-sees"

// hosts is a server that is example.com and all below it.
type hosts struct {
	*httptest.Server
	log bytes.Buffer // of the runtime

	mu  sync.Mutex
	got []string // of each request: host, and header Authorization
}

// withSecrets opens a runtime over a system that keeps secrets: "own" is for example.com, "forked" for
// www.example.com. What is written on disk or logged until the end of the test must not have the credential.
func withSecrets(t *testing.T, change func(*Config)) (*world, *hosts) {
	t.Helper()
	h := &hosts{}
	h.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.got = append(h.got, r.Host+" "+r.Header.Get("Authorization"))
		w.Header().Set("Echo", r.Header.Get("Authorization"))
		fmt.Fprintf(w, "hello %s", r.Header)
	}))
	t.Cleanup(h.Close)
	dir := t.TempDir()
	t.Cleanup(func() { // after the runtime's end
		if strings.Contains(h.log.String(), theSecret) {
			t.Errorf("the credential is in the log:\n%s", &h.log)
		}
		if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if bytes.Contains(data, []byte(theSecret)) {
				t.Errorf("the credential is in %s", path)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	})
	value := func(context.Context) (string, error) { return theSecret, nil }
	w := open(t, func(c *Config) {
		c.StateDir, c.Log = dir, slog.New(slog.NewTextHandler(&h.log, nil))
		c.Secrets = map[string]Secret{
			"own":    {Host: "example.com", Header: "Authorization", Prefix: "Bearer ", Value: value},
			"forked": {Host: "www.example.com", Header: "Authorization", Value: value},
		}
		if change != nil {
			change(c)
		}
	})
	w.d.Flows = true
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	w.d.Files = map[string]string{inject.ImageBundles()[0]: string(cert)}
	w.outside.Roots = x509.NewCertPool()
	w.outside.Roots.AddCert(h.Certificate())
	w.outside.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", h.Listener.Addr().String())
	}
	return w, h
}

// fetch has a sandbox get a URL, and returns what the host got of it.
func (h *hosts) fetch(t *testing.T, s *Session, id, host string) string {
	t.Helper()
	res, err := s.Run(t.Context(), RunRequest{Sandbox: id, Args: []string{"fetch", "203.0.113.7:443", "https://" + host + "/"}})
	if err != nil {
		t.Fatal(err)
	}
	if seen := fmt.Sprint(res); strings.Contains(seen, theSecret) {
		t.Errorf("the sandbox sees the credential: %s", seen)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.got) == 0 {
		return res.Stderr
	}
	last := h.got[len(h.got)-1]
	h.got = nil
	return last
}

// TestSecrets has a credential arrive at its host, and nowhere else.
func TestSecrets(t *testing.T) {
	w, h := withSecrets(t, nil)
	s := w.session(t, SessionSpec{Capabilities: allCapabilities()})
	info, err := s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Secrets: []SecretUse{{Name: "own"}, {Name: "forked", Fork: true}}}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"tcp://example.com:443", "tcp://www.example.com:443"}; info.Network != sandbox.NetworkOutbound || !slices.Equal(info.Egress, want) {
		t.Errorf("it reaches %s %q", info.Network, info.Egress)
	}
	const own, forked, bare = "example.com Bearer " + theSecret, "www.example.com " + theSecret, " "
	wants := func(what, id string, wants map[string]string) {
		t.Helper()
		for host, want := range wants {
			if got := h.fetch(t, s, id, host); got != want {
				t.Errorf("%s: %s got %q, want %q", what, host, got, want)
			}
		}
	}
	wants("a sandbox", info.ID, map[string]string{"example.com": own, "www.example.com": forked, "x.example.com": "x.example.com" + bare})
	res, err := s.Run(t.Context(), RunRequest{Sandbox: info.ID, Args: []string{"env", "SSL_CERT_FILE"}})
	if err != nil || res.Stdout != inject.BundleFile+"\n" {
		t.Errorf("its certificates are at %q, %v", res.Stdout, err)
	}
	// Copies have what says so, those that are made by way of a snapshot nothing.
	_, err = s.Fork(t.Context(), ForkRequest{Sandbox: info.ID})
	if e := wantError(t, "a fork by way of a snapshot", err, CodeUnsupported); e.Remedy == "" {
		t.Error(e)
	}
	snap, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: info.ID})
	if err != nil {
		t.Fatal(err)
	}
	if spec := w.snapshots[snap.ID].Spec; len(spec.Secrets) != 0 {
		t.Errorf("a snapshot has %+v", spec.Secrets)
	}
	restored, err := s.Restore(t.Context(), RestoreRequest{Snapshot: snap.ID})
	if err != nil {
		t.Fatal(err)
	}
	if got := h.fetch(t, s, restored.ID, "example.com"); strings.Contains(got, theSecret) {
		t.Errorf("restored: %s", got)
	}
	_, err = s.Rollback(t.Context(), RollbackRequest{Sandbox: info.ID, Snapshot: snap.ID})
	want(t, "roll back", err, CodeUnsupported)
	w.d.Forks = true
	if info, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Secrets: []SecretUse{{Name: "own"}, {Name: "forked", Fork: true}}}}); err != nil {
		t.Fatal(err)
	}
	fork, err := s.Fork(t.Context(), ForkRequest{Sandbox: info.ID})
	if err != nil {
		t.Fatal(err)
	}
	child := fork.Children[0].Sandbox.ID
	wants("a fork", child, map[string]string{"example.com": "example.com" + bare, "www.example.com": forked})
	if fork, err = s.Fork(t.Context(), ForkRequest{Sandbox: child}); err != nil {
		t.Fatal(err)
	}
	wants("a fork of it", fork.Children[0].Sandbox.ID, map[string]string{"example.com": "example.com" + bare, "www.example.com": forked})
	wants("the first", info.ID, map[string]string{"example.com": own})
	if err := s.Kill(t.Context(), info.ID); err != nil {
		t.Error(err)
	}
	wants("a fork without its parent", child, map[string]string{"www.example.com": forked})
}

// TestSecretsThatAreRefused are those that nobody offers, allows or can keep.
func TestSecretsThatAreRefused(t *testing.T) {
	w, _ := withSecrets(t, func(c *Config) { c.Egress.Allow = []string{"example.com:443", "pypi.org"} })
	s := w.session(t, SessionSpec{Capabilities: allCapabilities()})
	own := []SecretUse{{Name: "own"}}
	for _, c := range []struct {
		what string
		spec SandboxSpec
		code Code
	}{
		{"unknown", SandboxSpec{Secrets: []SecretUse{{Name: "other"}}}, CodeInvalid},
		{"twice", SandboxSpec{Secrets: append(own, own...)}, CodeInvalid},
		{"without a network", SandboxSpec{Secrets: own, Network: sandbox.NetworkNone}, CodeInvalid},
		{"for a host that is not allowed", SandboxSpec{Secrets: []SecretUse{{Name: "forked"}}}, CodeDenied},
	} {
		_, err := s.Create(t.Context(), CreateRequest{SandboxSpec: c.spec})
		want(t, c.what, err, c.code)
	}
	_, err := w.session(t, SessionSpec{Capabilities: []Capability{CanExec}}).Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Secrets: own}})
	want(t, "without the capability", err, CodeDenied)
	info, err := s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Secrets: own, Egress: []string{"pypi.org"}}})
	if want := []string{"pypi.org", "tcp://example.com:443"}; err != nil || !slices.Equal(info.Egress, want) {
		t.Errorf("beside another rule: %q, %v", info.Egress, err)
	}
	made := w.d.Made()
	w.d.Flows = false
	_, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Secrets: own}})
	if e := wantError(t, "a system that cannot", err, CodeUnsupported); !strings.Contains(e.Remedy, "aethervm") || w.d.Made() != made {
		t.Errorf("%+v; %d were made", e, w.d.Made()-made)
	}
	w.d.Flows = true
	var outside sandbox.Outside
	w.d.OnCreate = func(_ context.Context, spec sandbox.Spec) error {
		outside = spec.Outside
		return errors.New("out of luck")
	}
	if _, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Secrets: own}}); err == nil {
		t.Error("it was made")
	}
	if conn, err := outside.Dial(t.Context(), "tcp", "203.0.113.7:443"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("what a sandbox that failed has left opens flows still: %v, %v", conn, err)
	}
	for name, bad := range map[string]Secret{
		"no name":    {Host: "example.com", Header: "X"},
		"nobody":     {Host: "example.com", Header: "X"},
		"no-host":    {Host: "*.example.com", Header: "X", Value: w.cfg.Secrets["own"].Value},
		"the-header": {Host: "example.com", Header: "Host", Value: w.cfg.Secrets["own"].Value},
	} {
		cfg := Config{Drivers: []sandbox.Driver{runtimetest.New("docker")}, Images: w.images, Secrets: map[string]Secret{name: bad}}
		if r, err := Open(t.Context(), cfg); err == nil {
			t.Errorf("%s: it was opened, %v", name, r.Close())
		}
	}
}

// TestSecretsAndThePool has a sandbox with secrets neither taken from those that are ready nor made ready.
func TestSecretsAndThePool(t *testing.T) {
	w, h := withSecrets(t, func(c *Config) { c.Pool = PoolConfig{Sandboxes: 4} })
	s := w.session(t, SessionSpec{Capabilities: allCapabilities()})
	for range 5 {
		info, err := s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Secrets: []SecretUse{{Name: "own"}}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := h.fetch(t, s, info.ID, "example.com"); !strings.HasSuffix(got, theSecret) {
			t.Error(got)
		}
		if err := s.Kill(t.Context(), info.ID); err != nil {
			t.Error(err)
		}
	}
	if got := w.Pool(); got != (PoolStats{}) {
		t.Errorf("the pool has had to do with them: %+v", got)
	}
}
