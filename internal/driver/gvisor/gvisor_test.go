package gvisor

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/sandbox/sandboxtest"
)

func newDriver() (sandbox.Driver, error) { return New() }

func TestMain(m *testing.M) { sandboxtest.Main(m, newDriver) }

// available goes on only if gVisor can be used here.
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
		testenv.Require(t, "GVISOR", info.Reason+"; "+info.Remedy)
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

// TestSnapshotDuringExec saves a sandbox while a program runs whose streams lead out of it. In the
// original they go on; in the restored sandbox there is nobody at their other end, and the program
// goes on all the same.
func TestSnapshotDuringExec(t *testing.T) {
	available(t)
	testenv.TempRun(t)
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	s, err := d.Create(t.Context(), sandbox.Spec{Image: testenv.Image(t)})
	if err != nil {
		t.Fatal(err)
	}
	const program = `import os, sys, time
n = 0
while True:
    n += 1
    with open('/n.new', 'w') as f: f.write(str(n))
    os.rename('/n.new', '/n')
    if n == 10: os.write(1, b'ten\n')
    if os.path.exists('/stop'): print(sys.stdin.read()); break
    time.sleep(0.02)`
	stdin, feed := io.Pipe()
	var out bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		exit, err := s.Exec(t.Context(), sandbox.Cmd{Args: []string{"python3", "-c", program}, Stdin: stdin, Stdout: &out})
		if err == nil && !exit.Success() {
			err = errors.New(exit.String())
		}
		ended <- err
	}()
	count := func(s sandbox.Sandbox) string {
		var b bytes.Buffer
		if err := s.ReadFile(t.Context(), "/n", &b); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		return b.String()
	}
	await := func(s sandbox.Sandbox, what string, ok func(n string) bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !ok(count(s)); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: the program does not go on at %q", what, count(s))
			}
		}
	}
	await(s, "original", func(n string) bool { return len(n) > 1 })
	snap, err := s.(sandbox.Snapshotter).Snapshot(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.Restore(t.Context(), snap)
	if err != nil {
		t.Fatal(err)
	}
	first := count(r)
	await(r, "restored", func(n string) bool { return n != first })
	if first == "" || first == "1" {
		t.Errorf("the restored program began anew, at %q", first)
	}

	if err := s.WriteFile(t.Context(), "/stop", strings.NewReader(""), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := feed.Write([]byte("fed after the snapshot")); err != nil {
		t.Fatal(err)
	}
	if err := feed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil || out.String() != "ten\nfed after the snapshot\n" {
		t.Errorf("original: %q, %v", out.String(), err)
	}
}

// TestRestoredIdentity checks what two sandboxes from one snapshot must not share.
func TestRestoredIdentity(t *testing.T) {
	available(t)
	testenv.TempRun(t)
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s, err := d.Create(t.Context(), sandbox.Spec{Image: testenv.Image(t)})
	if err != nil {
		t.Fatal(err)
	}
	snap, err := s.(sandbox.Snapshotter).Snapshot(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 2 {
		r, err := d.Restore(t.Context(), snap)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		exit, err := r.Exec(t.Context(), sandbox.Cmd{Stdout: &out, Args: []string{"python3", "-c",
			"import os, uuid\nprint(os.uname().nodename)\nprint(os.urandom(8).hex())\nprint(uuid.uuid4())"}})
		if err != nil || !exit.Success() {
			t.Fatalf("%v, %v", exit, err)
		}
		lines := strings.Fields(out.String())
		if len(lines) != 3 || lines[0] != r.ID() {
			t.Errorf("it says %q, its ID is %s", lines, r.ID())
		}
		for _, l := range lines {
			if seen[l] {
				t.Errorf("two restored sandboxes have %s", l)
			}
			seen[l] = true
		}
	}
}

func TestDeadSandboxIsNoticed(t *testing.T) {
	available(t)
	testenv.TempRun(t)
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s, err := d.Create(t.Context(), sandbox.Spec{Image: testenv.Image(t)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := s.Exec(t.Context(), sandbox.Cmd{Args: []string{"sleep", "300"}})
		ended <- err
	}()
	time.Sleep(300 * time.Millisecond)
	if err := s.(*Sandbox).sentry.kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, sandbox.ErrDead) {
		t.Errorf("exec in progress: %v, want ErrDead", err)
	}
	if _, err := s.Stat(t.Context(), "/"); !errors.Is(err, sandbox.ErrDead) {
		t.Errorf("stat: %v, want ErrDead", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := s.Stat(t.Context(), "/"); !errors.Is(err, sandbox.ErrClosed) {
		t.Errorf("stat after close: %v, want ErrClosed", err)
	}
}
