package agentjobs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/driver/all/drivertest"
	"github.com/aethervm/aether/internal/testenv"
)

// slowEnv has TestRun take the systems too that emulate a processor, for which it takes minutes.
const slowEnv = "AETHER_SLOW"

// TestRun has the agent do all jobs on the systems of this host.
func TestRun(t *testing.T) {
	for system, need := range map[string]string{"gvisor": "GVISOR", "docker": "DOCKER", "qemu-kvm": "QEMU", "aethervm": "REAL_KVM"} {
		t.Run(system, func(t *testing.T) {
			if system == "qemu-kvm" && os.Getenv(slowEnv) == "" {
				t.Skip("takes minutes; set " + slowEnv)
			}
			d := drivertest.Real(t, system, need)
			results, err := Run(t.Context(), Config{
				Driver: d, Image: testenv.Image(t), StateDir: filepath.Join(t.TempDir(), "state"),
				Done: func(r Result) {
					t.Logf("%-20s %v %6d ms %3d calls %s", r.Name, r.Done, r.Duration/time.Millisecond, len(r.Calls), r.Error)
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(results) != 20 {
				t.Errorf("%d jobs", len(results))
			}
			for _, r := range results {
				if !r.Done && !r.NoAbility {
					t.Errorf("%s: %s", r.Name, r.Error)
				}
				if r.Done && len(r.Calls) == 0 {
					t.Errorf("%s was done without a call", r.Name)
				}
			}
			if n, err := d.Sweep(t.Context()); n != 0 || err != nil {
				t.Errorf("%d sandboxes are left, %v", n, err)
			}
		})
	}
}

// TestDocumented: the document's table is the list.
func TestDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, j := range append(jobs(), budgetJobs()...) {
		if seen[j.name] || j.name == "" || j.verified == "" || strings.ToLower(j.name) != j.name {
			t.Errorf("job %q", j.name)
		}
		seen[j.name] = true
		if row := fmt.Sprintf("| `%s` | %s |\n", j.name, j.verified); !strings.Contains(string(doc), row) {
			t.Errorf("docs/METRICS.md lacks the row %q", row)
		}
	}
	if len(seen) != 20 {
		t.Errorf("%d jobs", len(seen))
	}
}
