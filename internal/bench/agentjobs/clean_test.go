package agentjobs

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/bench/agenthost"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// TestClean: snapshots outlive a runtime, so those of an agent that was cut off are still there.
func TestClean(t *testing.T) {
	d := runtimetest.New("docker")
	cfg := Config{
		Driver: d, Image: sandbox.Image{Digest: "sha256:" + strings.Repeat("0", 64), Rootfs: "/nowhere"},
		StateDir: filepath.Join(t.TempDir(), "state"),
	}
	host, err := agenthost.Open(t.Context(), agenthost.Config{Driver: d, Image: cfg.Image, StateDir: cfg.StateDir})
	if err != nil {
		t.Fatal(err)
	}
	_, token, err := host.Tenant(t.Context(), "cut-off", runtime.Budget{})
	if err != nil {
		t.Fatal(err)
	}
	web, err := host.Connect(t.Context(), token, "agent")
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := host.Pipe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*agenthost.Client{web, pipe} {
		w := &worker{client: c}
		box, err := w.box(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Raw(t.Context(), "snapshot", args{"action": "save", "sandbox": box}); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	if _, snapshots := d.Left(); snapshots != 2 {
		t.Fatalf("%d snapshots were left", snapshots)
	}
	cfg.Image = sandbox.Image{} // whoever cleans may not know it
	if err := Clean(t.Context(), cfg); err != nil {
		t.Error(err)
	}
	if boxes, snapshots := d.Left(); boxes != 0 || snapshots != 0 {
		t.Errorf("%d sandboxes and %d snapshots are left", boxes, snapshots)
	}
}
