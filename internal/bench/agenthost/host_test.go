package agenthost

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// openMemory serves a system in memory.
func openMemory(t *testing.T) (*Host, *runtimetest.Driver) {
	t.Helper()
	d := runtimetest.New("docker")
	host, err := Open(t.Context(), Config{
		Driver: d, Image: sandbox.Image{Digest: "sha256:" + strings.Repeat("0", 64), Rootfs: "/nowhere"},
		StateDir: filepath.Join(t.TempDir(), "state"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
		if boxes, snapshots := d.Left(); boxes != 0 || snapshots != 0 {
			t.Errorf("%d sandboxes and %d snapshots are left", boxes, snapshots)
		}
	})
	return host, d
}

func TestClients(t *testing.T) {
	host, _ := openMemory(t)
	_, token, err := host.Tenant(t.Context(), "one", runtime.Budget{Sandboxes: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := host.Connect(t.Context(), token+"x", "s"); err == nil {
		t.Error("a token that is wrong is taken")
	}
	web, err := host.Connect(t.Context(), token, "s")
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := host.Pipe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*Client{"http": web, "pipe": pipe} {
		var seen []string
		c.Observe(func(request, reply string) { seen = append(seen, request, reply) })
		box, err := Call[runtime.SandboxInfo](t.Context(), c, "create", nil)
		if err != nil {
			t.Fatal(name, err)
		}
		res, err := Call[runtime.RunResult](t.Context(), c, "run", Args{"sandbox": box.ID, "command": "echo out"})
		if err != nil || res.Stdout != "out\n" {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
		if len(seen) != 4 || !strings.Contains(seen[2], `"echo out"`) || !strings.Contains(seen[3], `out\n`) {
			t.Errorf("%s: observed %q", name, seen)
		}
		raw, err := c.Raw(t.Context(), "run", Args{"sandbox": "sbaaaaaaaaaa", "command": "true"})
		if runtime.CodeOf(err) != runtime.CodeNotFound || !json.Valid(raw) {
			t.Errorf("%s: %s, %v", name, raw, err)
		}
		if raw, err = c.Resource(t.Context(), "aether://sandboxes/"+box.ID); err != nil || !strings.Contains(string(raw), box.ID) {
			t.Errorf("%s: %s, %v", name, raw, err)
		}
	}
	if _, err := web.Raw(t.Context(), "create", nil); runtime.CodeOf(err) != runtime.CodeBudget {
		t.Errorf("a second sandbox: %v", err)
	}
	for _, c := range []*Client{web, pipe} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
