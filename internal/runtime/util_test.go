package runtime

import (
	"context"
	"errors"
	"os"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// world is a runtime over drivers in memory.
type world struct {
	*Runtime
	d      *runtimetest.Driver
	images *runtimetest.Images
	cfg    Config
}

// open opens a runtime on a state directory of the test's own. What is left when the test is over is
// an error.
func open(t testing.TB, change func(*Config), more ...*runtimetest.Driver) *world {
	t.Helper()
	w := &world{d: runtimetest.New("gvisor"), images: &runtimetest.Images{}}
	w.cfg = Config{StateDir: t.TempDir(), Drivers: []sandbox.Driver{w.d}, Images: w.images, DefaultImage: "base"}
	for _, d := range more {
		w.cfg.Drivers = append(w.cfg.Drivers, d)
	}
	if change != nil {
		change(&w.cfg)
	}
	w.reopen(t)
	t.Cleanup(func() {
		w.shut(t)
		for _, d := range append(more, w.d) {
			if n, _ := d.Left(); n != 0 {
				t.Errorf("%s: %d sandboxes are left", d.Name, n)
			}
		}
		if n := w.images.Held(); n != 0 {
			t.Errorf("%d images are held", n)
		}
		if w.cfg.StateDir != "" {
			if _, err := VerifyAudit(w.cfg.StateDir); err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

func (w *world) reopen(t testing.TB) {
	t.Helper()
	r, err := Open(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Runtime = r
}

func (w *world) shut(t testing.TB) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if w.calls != 0 {
		t.Errorf("%d calls are in progress", w.calls)
	}
	for id, tenant := range w.tenants {
		kept := map[Resource]int64{Snapshots: int64(len(w.snapshotsOf(id))), Templates: int64(len(w.templatesOf(id)))}
		for _, left := range w.remains {
			if left.Tenant == id {
				kept[Templates]++
			}
		}
		for r, n := range tenant.ledger.used {
			if r == KeptBytes && kept[Snapshots]+kept[Templates] > 0 {
				continue
			}
			if !r.addsUp() && n != kept[r] {
				t.Errorf("tenant %s: %d %s are on the ledger, and there are %d", tenant.Name, n, r, kept[r])
			}
		}
	}
}

// session opens one of the local tenant.
func (w *world) session(t testing.TB, spec SessionSpec) *Session {
	t.Helper()
	tenant, err := w.Local(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.OpenSession(t.Context(), tenant.ID, spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *Session) mustCreate(t testing.TB, spec SandboxSpec) string {
	t.Helper()
	info, err := s.Create(t.Context(), CreateRequest{SandboxSpec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return info.ID
}

func (s *Session) mustRun(t testing.TB, id, line string) RunResult {
	t.Helper()
	res, err := s.Run(t.Context(), RunRequest{Sandbox: id, Shell: line})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (s *Session) mustStart(t testing.TB, id, line string) string {
	t.Helper()
	res, err := s.Run(t.Context(), RunRequest{Sandbox: id, Shell: line, Background: true})
	if err != nil {
		t.Fatal(err)
	}
	return res.Process
}

// want checks that err has a code, a cause and, but for a few, a remedy.
func want(t testing.TB, what string, err error, code Code) {
	t.Helper()
	_ = wantError(t, what, err, code)
}

// wantError is want for those who look closer.
func wantError(t testing.TB, what string, err error, code Code) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("%s: %v, want code %s", what, err, code)
	}
	if e.Cause == "" || e.Op == "" || e.Remedy == "" && code != CodeCancelled {
		t.Errorf("%s: the error is not whole: %#v", what, e)
	}
	return e
}

// noLeaks checks, when all else of the test is done, that no goroutine of this package is left.
func noLeaks(t *testing.T) {
	t.Cleanup(func() {
		var left []string
		for range 100 {
			buf := make([]byte, 1<<20)
			stacks := strings.Split(string(buf[:goruntime.Stack(buf, true)]), "\n\n")
			left = slices.DeleteFunc(stacks, func(s string) bool {
				return !strings.Contains(s, "aether/internal/runtime") || strings.Contains(s, "testing.(*")
			})
			if len(left) == 0 {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("goroutines are left:\n%s", strings.Join(left, "\n\n"))
	})
}

func TestMain(m *testing.M) {
	// Private state directories lie below the run directory.
	dir, err := os.MkdirTemp("/tmp", "ae-")
	if err != nil {
		panic(err)
	}
	_ = os.Setenv("AETHER_RUN", dir)
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
