package qemu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// started returns a driver and a machine of it.
func started(t *testing.T, change func(*sandbox.Spec)) (*Driver, *Sandbox) {
	t.Helper()
	available(t)
	testenv.TempRun(t)
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	spec := sandbox.Spec{Image: testenv.Image(t)}
	if change != nil {
		change(&spec)
	}
	b, err := d.Create(bounded(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	return d, b.(*Sandbox)
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func sh(t *testing.T, b sandbox.Sandbox, script string) string {
	t.Helper()
	var out bytes.Buffer
	exit, err := b.Exec(bounded(t), sandbox.Cmd{Args: []string{"sh", "-c", script}, Stdout: &out})
	if err != nil || !exit.Success() {
		t.Fatalf("%s: %v, %v", script, exit, err)
	}
	return strings.TrimSpace(out.String())
}

// dead checks that a sandbox says that it has died, and why.
func dead(t *testing.T, b sandbox.Sandbox, err error, why string) {
	t.Helper()
	var typed *sandbox.Error
	if !errors.Is(err, sandbox.ErrDead) || !errors.As(err, &typed) || !strings.Contains(typed.Detail, why) {
		t.Errorf("got %v, want ErrDead with %q", err, why)
	}
	if _, err := b.Stat(t.Context(), "/"); !errors.Is(err, sandbox.ErrDead) {
		t.Errorf("afterwards: %v, want ErrDead", err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := b.Stat(t.Context(), "/"); !errors.Is(err, sandbox.ErrDead) && !errors.Is(err, sandbox.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

func TestMachineIsKilled(t *testing.T) {
	_, b := started(t, nil)
	time.AfterFunc(300*time.Millisecond, func() { _ = unix.Kill(b.machine.pid, unix.SIGKILL) })
	_, err := b.Exec(bounded(t), sandbox.Cmd{Args: []string{"sleep", "300"}})
	dead(t, b, err, "signal: killed")
}

func TestGuestPanics(t *testing.T) {
	_, b := started(t, nil)
	_, err := b.Exec(bounded(t), sandbox.Cmd{Args: []string{"sh", "-c", "echo c > /proc/sysrq-trigger; sleep 300"}})
	dead(t, b, err, "sysrq")
}

func TestConfinement(t *testing.T) {
	_, b := started(t, nil)
	dir := filepath.Join("/proc", strconv.Itoa(b.machine.pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		t.Fatal(err)
	}
	uid := strconv.Itoa(int(b.machine.identity.UID()))
	for _, want := range []string{
		"Uid:\t" + uid + "\t" + uid, "Gid:\t" + uid + "\t" + uid, "NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000",
	} {
		if !strings.Contains(string(status), want) {
			t.Errorf("%q is missing in the status of QEMU", want)
		}
	}
	for _, ns := range []string{"net", "ipc", "uts"} {
		theirs, err1 := os.Readlink(filepath.Join(dir, "ns", ns))
		ours, err2 := os.Readlink("/proc/self/ns/" + ns)
		if err := errors.Join(err1, err2); err != nil || theirs == ours {
			t.Errorf("namespace %s is the host's (%v)", ns, err)
		}
	}
	limits, err := os.ReadFile(filepath.Join(dir, "limits"))
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
		t.Errorf("limits: %v\n%s", err, limits)
	}
}

// TestSnapshotKeepsExec takes a snapshot while a program is being served: it goes on in the
// original, with its output, and also in the copy, where nobody listens to it any more.
func TestSnapshotKeepsExec(t *testing.T) {
	d, b := started(t, nil)
	const script = "for i in 1 2 3 4 5 6 7 8 9; do echo $i; echo $i > /tmp/i; sleep 0.3; done; echo end > /tmp/i"
	var out bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		exit, err := b.Exec(bounded(t), sandbox.Cmd{Args: []string{"sh", "-c", script}, Stdout: &out})
		if err == nil && !exit.Success() {
			err = errors.New(exit.String())
		}
		ended <- err
	}()
	time.Sleep(700 * time.Millisecond)
	snap, err := b.Snapshot(bounded(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil || out.String() != "1\n2\n3\n4\n5\n6\n7\n8\n9\n" {
		t.Errorf("in the original: %v, %q", err, out.String())
	}
	c, err := d.Restore(bounded(t), snap)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); sh(t, c, "cat /tmp/i") != "end"; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in the copy it stands still at %s", sh(t, c, "cat /tmp/i"))
		}
	}
}

func TestCopiesDiffer(t *testing.T) {
	d, b := started(t, nil)
	snap, err := b.Snapshot(bounded(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 3 {
		c, err := d.Restore(bounded(t), snap)
		if err != nil {
			t.Fatal(err)
		}
		for _, script := range []string{"hostname", "cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id",
			"cat /proc/sys/kernel/random/uuid", "head -c 16 /dev/urandom | od -An -tx1"} {
			got := sh(t, c, script)
			if seen[got] {
				t.Errorf("%s: two copies say %s", script, got)
			}
			seen[got] = true
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	d, b := started(t, nil)
	dir := t.TempDir()
	snap, err := b.Snapshot(bounded(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, stateName)
	info, err := os.Stat(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(state, info.Size()/2); err != nil {
		t.Fatal(err)
	}
	refused := func(name string, want error) {
		t.Helper()
		c, err := d.Restore(bounded(t), snap)
		if err == nil {
			_ = c.Close()
		}
		var typed *sandbox.Error
		if !errors.As(err, &typed) || (want != nil && !errors.Is(err, want)) {
			t.Errorf("%s: got %v, want %v", name, err, want)
		}
	}
	refused("cut off", nil)
	if err := writeAbout(dir, about{QEMU: "0.1"}); err != nil {
		t.Fatal(err)
	}
	refused("of another QEMU", sandbox.ErrUnsupported)
	if err := os.WriteFile(filepath.Join(dir, aboutName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("damaged", sandbox.ErrInvalid)
	snap.System = "docker"
	refused("of another system", sandbox.ErrInvalid)
	if leases, err := filepath.Glob(filepath.Join(filepath.Dir(b.machine.dir), "*", agentSocket)); err != nil || len(leases) != 1 {
		t.Errorf("machines left: %q, %v", leases, err)
	}
}

func TestWhatItRefuses(t *testing.T) {
	d, err := newDriver()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for name, c := range map[string]struct {
		change func(*sandbox.Spec)
		want   error
	}{
		"a network that reaches the host's loopback": {func(s *sandbox.Spec) { s.Network = sandbox.NetworkOutbound }, sandbox.ErrUnsupported},
		"more memory than the host has":              {func(s *sandbox.Spec) { s.MemoryMiB = sandbox.MaxMemoryMiB }, sandbox.ErrNoSpace},
	} {
		spec := sandbox.Spec{Image: testenv.Image(t)}
		c.change(&spec)
		sb, err := d.Create(bounded(t), spec)
		if e, ok := errors.AsType[*sandbox.Error](err); !ok || !errors.Is(err, c.want) || e.Remedy == "" {
			t.Errorf("%s: %v, want %v with a remedy", name, err, c.want)
		}
		if err == nil {
			_ = sb.Close()
		}
	}
}

func TestObservedCalls(t *testing.T) {
	_, b := started(t, nil)
	var planes []string
	ctx := sandbox.WithObserver(bounded(t), func(c sandbox.Call) {
		planes = append(planes, c.Plane+" "+c.Op)
		if c.Sent <= 0 || c.Received <= 0 {
			t.Errorf("nothing was exchanged: %+v", c)
		}
	})
	if _, err := b.Exec(ctx, sandbox.Cmd{Args: []string{"true"}}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Pause(ctx), b.Resume(ctx)); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(planes, ", "); got != "agent exec, qmp stop, qmp cont, agent configure" {
		t.Errorf("observed %s", got)
	}
}
