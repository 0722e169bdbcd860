package probe_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/driver/all"
	"github.com/aethervm/aether/internal/probe"
	"github.com/aethervm/aether/internal/probe/finding"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// needs are the words of testenv.Require for the systems that have a driver.
var needs = map[string]string{"docker": "DOCKER", "gvisor": "GVISOR", "qemu-kvm": "QEMU"}

// TestSystems looks at and bombs the real systems.
func TestSystems(t *testing.T) {
	testenv.Root(t)
	testenv.Agent(t)
	spec := sandbox.Spec{Image: testenv.Image(t), MemoryMiB: 128, Processes: 200}
	for _, d := range all.Drivers(all.Options{}) {
		need, driven := needs[d.System()]
		if !driven {
			continue
		}
		t.Run(d.System(), func(t *testing.T) {
			defer func() {
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			info := d.Probe(ctx)
			if !info.Available {
				testenv.Require(t, need, info.Reason+"; "+info.Remedy)
			}
			sb, err := d.Create(ctx, spec)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := sb.Close(); err != nil {
					t.Error(err)
				}
			}()
			first := look(ctx, t, sb, info.Accelerator)
			second := look(ctx, t, sb, info.Accelerator)
			for i, f := range first.Inside {
				if g := second.Inside[i]; f.Verdict != g.Verdict {
					t.Errorf("%s: %+v, then %+v", f.Name, f, g)
				}
			}
			own := first.Metrics["isolation.separate_kernel_ratio"]
			if want := map[bool]float64{true: 0, false: 1}[info.Accelerator == "runc"]; own != want {
				t.Errorf("under %s, separate_kernel_ratio is %v", info.Accelerator, own)
			}
			if f := find(first.Inside, "network.routes"); f.Verdict != finding.Better {
				t.Errorf("a sandbox without network: %+v", f)
			}
			if testing.Short() {
				return
			}
			bombs, err := probe.Bombs(ctx, func(ctx context.Context) (sandbox.Sandbox, error) { return d.Create(ctx, spec) }, info.Accelerator)
			if err != nil {
				t.Fatal(err)
			}
			for i, f := range bombs.Bombs {
				t.Logf("%s: %s, %s (%s); alive %v, ended %s", f.Name, f.Verdict, f.Value, f.Detail, bombs.Runs[i].Alive, strings.Join(slices.Compact(bombs.Runs[i].Ends), ", "))
				if f.Verdict == finding.Unknown {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

func look(ctx context.Context, t *testing.T, sb sandbox.Sandbox, accelerator string) probe.Report {
	t.Helper()
	start := time.Now()
	r, err := probe.Look(ctx, sb, accelerator)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("looked in %v", time.Since(start))
	for _, f := range slices.Concat(r.Inside, r.Outside) {
		if f.Verdict != finding.Better {
			t.Logf("%-7s %-36s %s %s %q", f.Verdict, f.Name, f.Value, f.Detail, f.Items[:min(len(f.Items), 8)])
		}
	}
	text, err := json.Marshal(r.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", text)
	return r
}

func find(list []finding.Finding, name string) finding.Finding {
	for _, f := range list {
		if f.Name == name {
			return f
		}
	}
	return finding.Finding{}
}
