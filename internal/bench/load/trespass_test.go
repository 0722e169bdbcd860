package load

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/bench/agenthost"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// TestTrespass: two tenants keep apart, and two agents that share a session, as no two do in a run, are found out.
func TestTrespass(t *testing.T) {
	for _, shared := range []bool{false, true} {
		d := runtimetest.New("docker")
		host, err := agenthost.Open(t.Context(), agenthost.Config{
			Driver: d, Image: sandbox.Image{Digest: "sha256:" + strings.Repeat("0", 64), Rootfs: "/nowhere"},
			StateDir: filepath.Join(t.TempDir(), "state"),
		})
		if err != nil {
			t.Fatal(err)
		}
		r := &run{Config: Config{Log: func(string, ...any) {}}, host: host}
		var tokens []string
		for _, name := range []string{"one", "two"} {
			_, token, err := host.Tenant(t.Context(), name, runtime.Budget{})
			if err != nil {
				t.Fatal(err)
			}
			tokens = append(tokens, token)
		}
		for i, token := range tokens {
			if shared {
				token = tokens[0]
			}
			a := newAgent(r, i, i)
			if a.client, err = host.Connect(t.Context(), token, "session"); err != nil {
				t.Fatal(err)
			}
			info, err := call[runtime.SandboxInfo](t.Context(), a, "create", nil)
			if err != nil {
				t.Fatal(err)
			}
			a.publish("sandbox", info.ID)
			r.agents = append(r.agents, a)
		}
		for range 60 {
			if err := r.agents[0].trespass(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if leaks := r.leaks.Load(); r.tried.Load() == 0 || (leaks > 0) != shared {
			t.Errorf("shared %v: %d leaks of %d trials: %q", shared, leaks, r.tried.Load(), r.faults)
		}
		for _, a := range r.agents {
			if err := a.client.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	}
}
