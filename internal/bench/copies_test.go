package bench

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// copyingDriver has forks and templates. nothingLeft does not know it, so its tests count themselves.
type copyingDriver struct {
	*fakeDriver
	forkTime time.Duration
	fails    error // of ForkTemplate

	mu        sync.Mutex
	templates map[string]bool
}

type copyingSandbox struct {
	*fakeSandbox
	d *copyingDriver
}

func (d *copyingDriver) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	sb, err := d.fakeDriver.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &copyingSandbox{sb.(*fakeSandbox), d}, nil
}

func (sb *copyingSandbox) Fork(ctx context.Context, n int) (list []sandbox.Sandbox, err error) {
	for range n {
		list = append(list, sb.d.start(sb.state.fork(sb.d.fakeDriver)))
	}
	return list, sleep(ctx, sb.d.forkTime)
}

func (d *copyingDriver) CreateTemplate(ctx context.Context, spec sandbox.TemplateSpec) (sandbox.Template, error) {
	d.mu.Lock()
	d.templates[spec.Name] = true
	d.mu.Unlock()
	return sandbox.Template{Name: spec.Name, Bytes: 3 << 20}, sleep(ctx, 5*d.forkTime)
}

func (d *copyingDriver) Templates(context.Context) ([]sandbox.Template, error) { return nil, nil }

func (d *copyingDriver) ForkTemplate(ctx context.Context, name string, n int) (list []sandbox.Sandbox, err error) {
	d.mu.Lock()
	there := d.templates[name]
	d.mu.Unlock()
	if !there {
		return nil, fs.ErrNotExist
	}
	if d.fails != nil {
		return nil, d.fails
	}
	for range n {
		list = append(list, d.start(&fakeState{files: map[string]string{}}))
	}
	return list, sleep(ctx, 2*d.forkTime)
}

func (d *copyingDriver) RemoveTemplate(_ context.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.templates[name] {
		return fs.ErrNotExist
	}
	delete(d.templates, name)
	return nil
}

func newCopying() *copyingDriver {
	return &copyingDriver{fakeDriver: newFake("a"), forkTime: 10 * time.Millisecond, templates: map[string]bool{}}
}

func TestCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newCopying()
		got, notes := snapshotMetrics(t, d)
		for name, want := range map[string]float64{
			"snapshot.live.first.p50_ms": 20, "snapshot.live.fork1.p50_ms": 20, "snapshot.live.fork10.p50_ms": 20,
			"snapshot.template.create.p50_ms": 50, "snapshot.template.disk_mib": 3,
			"snapshot.template.fork1.p50_ms": 30, "snapshot.template.fork10.p50_ms": 30,
		} {
			if got[name] != want {
				t.Errorf("%s is %v, want %v; %s", name, got[name], want, notes)
			}
		}
		if sandboxes, snapshots := d.left(); sandboxes+snapshots+len(d.templates) != 0 {
			t.Errorf("left: %d sandboxes, %d snapshots, %v", sandboxes, snapshots, d.templates)
		}
	})
}

// A template goes with the step, also when it cannot be copied.
func TestCopiesFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newCopying()
		d.fails = errors.New("no copies today")
		got, notes := snapshotMetrics(t, d)
		if _, ok := got["snapshot.template.fork1.p50_ms"]; ok || got["snapshot.live.fork1.p50_ms"] != 20 || !strings.Contains(notes, "no copies today") {
			t.Errorf("%v, %s", got, notes)
		}
		if sandboxes, _ := d.left(); sandboxes+len(d.templates) != 0 {
			t.Errorf("left: %d sandboxes, %v", sandboxes, d.templates)
		}
	})
}

// Templates of a bench that was killed go with the next bench that has their system; those of one that runs stay.
func TestTemplatesOfAKilledBench(t *testing.T) {
	d := newCopying()
	drivers := []sandbox.Driver{d}
	root := t.TempDir()
	begin := func(drivers []sandbox.Driver, names ...string) *scratch {
		t.Helper()
		s, err := newScratch(t.Context(), root, drivers)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if _, err := s.rememberTemplate(sandbox.Template{System: "a", Name: name}); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	killed, lives := begin(drivers, "bench-killed", "bench-unmade"), begin(drivers, "bench-lives")
	if err := os.WriteFile(filepath.Join(killed.lease.Dir, templatePrefix+"half"), []byte(`{"sys`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bench-killed", "bench-lives", "bench-of-a-user"} {
		d.templates[name] = true
	}
	killed.lease.Abandon() // as the kernel does when a process dies
	scratches := []*scratch{lives}
	for _, c := range []struct {
		drivers []sandbox.Driver
		want    int
	}{{nil, 3}, {drivers, 2}, {drivers, 2}} {
		scratches = append(scratches, begin(c.drivers))
		if len(d.templates) != c.want {
			t.Errorf("%d drivers: %v are there, not %d", len(c.drivers), d.templates, c.want)
		}
	}
	if d.templates["bench-killed"] {
		t.Error("the template of the one that was killed is there")
	}
	for _, s := range scratches {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}
	if left := list(t, root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
