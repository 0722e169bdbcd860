package qemu

import (
	"testing"

	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/sandbox/sandboxtest"
)

func newDriver() (sandbox.Driver, error) { return New() }

func TestMain(m *testing.M) { sandboxtest.Main(m, newDriver) }

// available goes on only if QEMU can be used here.
func available(t testing.TB) {
	t.Helper()
	testenv.Root(t)
	testenv.Agent(t)
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if info := d.Probe(t.Context()); !info.Available {
		testenv.Require(t, "QEMU", info.Reason+"; "+info.Remedy)
	}
}

func TestConformance(t *testing.T) {
	available(t)
	testenv.TempRun(t)
	sandboxtest.Run(t, sandboxtest.Config{New: newDriver, Image: testenv.Image(t)})
}

func BenchmarkSandbox(b *testing.B) {
	available(b)
	sandboxtest.Bench(b, sandboxtest.Config{New: newDriver, Image: testenv.Image(b)})
}
