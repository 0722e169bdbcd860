package aethervm

import (
	"context"
	"os"
	"testing"

	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/sandbox/sandboxtest"
)

func newDriver() (sandbox.Driver, error) { return New(Options{}) }

func TestMain(m *testing.M) {
	if os.Getenv(churnEnv) != "" {
		churnMain()
	}
	if os.Getenv(faultsEnv) != "" {
		faultsMain()
	}
	sandboxtest.Main(m, newDriver)
}

// available goes on only if AetherVM can be used here.
func available(t testing.TB) {
	t.Helper()
	testenv.Root(t)
	testenv.Agent(t)
	reality, err := kvm.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !reality.Real() {
		testenv.Require(t, "REAL_KVM", reality.Reason)
	}
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if info := d.Probe(t.Context()); !info.Available {
		testenv.Require(t, "REAL_KVM", info.Reason+"; "+info.Remedy)
	}
}

// quickExecs is less than the suite's default: each took 90 to 200 ms in a lab on a busy host.
const quickExecs = 200

// TestConformance runs the suite with the guest kernel that AETHER_KERNEL names, and with as many vCPUs
// as AETHER_TEST_VCPUS says.
func TestConformance(t *testing.T) {
	available(t)
	testenv.TempRun(t)
	img := testenv.Image(t)
	tempTemplates(t)
	sandboxtest.Run(t, sandboxtest.Config{New: newDriver, Image: img, VCPUs: vcpus(t), QuickExecs: quickExecs,
		Traces: func(context.Context) ([]string, error) { return templateFiles() }})
}

// templateFiles are the templates that there are, and those in the making.
func templateFiles() ([]string, error) {
	s, err := openTemplates()
	if err != nil {
		return nil, err
	}
	return s.entries()
}

// entries is what a store has beside its lock and names.
func (t *templates) entries() (list []string, err error) {
	entries, err := os.ReadDir(t.dir)
	for _, e := range entries {
		if e.Name() != lockName && e.Name() != namesName {
			list = append(list, e.Name())
		}
	}
	return list, err
}

func BenchmarkSandbox(b *testing.B) {
	available(b)
	sandboxtest.Bench(b, sandboxtest.Config{New: newDriver, Image: testenv.Image(b), VCPUs: vcpus(b)})
}

// vcpus is what the environment asks for; 0 is the default.
func vcpus(t testing.TB) int {
	t.Helper()
	return testenv.Number(t, "AETHER_TEST_VCPUS", 0)
}
