package aethervm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/sandbox"
)

// living is a program with a state, a timer, and a pipe to another program, all of which it tells about every 50 ms.
const living = `import os, signal, time
r, w = os.pipe()
if os.fork() == 0:
    os.close(r)
    n = 0
    while True:
        n += 1
        os.write(w, b'%08d' % n)
        time.sleep(0.02)
os.close(w)
ticks = [0]
def tick(*_): ticks[0] += 1
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.03, 0.03)
secret = 'kept ' + str(41 + 1)
last, began = 0, time.monotonic()
while True:
    n = int(os.read(r, 8))
    assert n == last + 1, (n, last)
    last = n
    with open('/tmp/new', 'w') as f: f.write('%s %d %d %.3f' % (secret, last, ticks[0], time.monotonic() - began))
    os.rename('/tmp/new', '/tmp/living')`

// alive checks that the program goes on, from where it was.
func alive(t *testing.T, b sandbox.Sandbox) {
	t.Helper()
	const goesOn = `a=$(cat /tmp/living); for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
b=$(cat /tmp/living); set -- $a; t=$4; set -- $b; [ "$4" -gt "$t" ] && break; sleep 0.2; done; echo $a / $b`
	f := strings.Fields(sh(t, b, goesOn))
	if len(f) != 11 || f[0] != "kept" || f[1] != "42" || f[2] == f[8] || f[3] == f[9] {
		t.Errorf("the program: %q", f)
		return
	}
	before, err := strconv.ParseFloat(f[4], 64)
	after, afterErr := strconv.ParseFloat(f[10], 64)
	if err != nil || afterErr != nil || after <= before {
		t.Errorf("the program's time: %q", f)
	}
}

// clocks notes the monotonic clock of a guest; see checkClocks.
const clocks = "python3 -c 'import time; print(time.monotonic())' >/root/monotonic"

// checkClocks finds that the monotonic clock of a guest has gone on from where it was noted, and that the wall clock is the host's.
func checkClocks(t *testing.T, b sandbox.Sandbox) {
	t.Helper()
	const slack = 50 * time.Millisecond
	begin := time.Now()
	out := sh(t, b, `python3 -c 'import time; print("%.6f %.6f" % (time.time(), time.monotonic() - float(open("/root/monotonic").read())))'`)
	end := time.Now()
	var wall, passed float64
	if _, err := fmt.Sscan(out, &wall, &passed); err != nil {
		t.Errorf("%q: %v", out, err)
		return
	}
	if at := time.UnixMicro(int64(wall * 1e6)); at.Before(begin.Add(-slack)) || at.After(end.Add(slack)) {
		t.Errorf("the wall clock is %v, here %v to %v", at, begin, end)
	}
	if passed <= 0 || passed > 600 {
		t.Errorf("the monotonic clock has gone on by %v s", passed)
	}
}

// who are the names that no two sandboxes share.
const who = "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '; python3 -c 'import uuid; print(uuid.uuid4())'"

// restoreEnv has the test binary restore a snapshot and tell who that is.
const restoreEnv = "AETHER_TEST_RESTORE"

// TestRestoreElsewhere is another process than the one that has taken the snapshot.
func TestRestoreElsewhere(t *testing.T) {
	text := os.Getenv(restoreEnv)
	if text == "" {
		t.Skip("it is run by TestSnapshot")
	}
	var snap sandbox.Snapshot
	if err := json.Unmarshal([]byte(text), &snap); err != nil {
		t.Fatal(err)
	}
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	begin := time.Now()
	b, err := d.Restore(bounded(t), snap)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("restored after %v", time.Since(begin))
	alive(t, b)
	checkClocks(t, b)
	t.Logf("who: %s", strings.Join(strings.Fields(sh(t, b, who)), " "))
}

// A running guest is saved, and goes on in another process, twice; each is somebody else.
func TestSnapshot(t *testing.T) {
	d := open(t)
	original := create(t, d)
	if err := original.WriteFile(bounded(t), "/tmp/living.py", strings.NewReader(living), 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, original, "python3 /tmp/living.py >/dev/null 2>/tmp/err </dev/null & until [ -s /tmp/living ]; do sleep 0.1; done")
	sh(t, original, clocks)
	dir := t.TempDir()
	begin := time.Now()
	snap, err := original.Snapshot(bounded(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes on disk after %v", snap.Bytes, time.Since(begin))
	f := opened(t, dir)
	if s, err := stampOf(f.File(), f.Digest()); err != nil || snap.Bytes != s.allocated {
		t.Errorf("%d bytes, %+v, %v", snap.Bytes, s, err)
	} else if s.allocated = 0; readStamp(dir, stampName) != s {
		t.Errorf("it is not known to be whole: %+v, %+v", readStamp(dir, stampName), s)
	}
	alive(t, original)
	diskFull(t, original)
	seen := map[string]bool{}
	note := func(names []string) {
		t.Helper()
		if len(names) < 4 { // not every image has a machine ID before it is copied
			t.Errorf("names: %q", names)
		}
		for _, n := range names {
			if seen[n] {
				t.Errorf("%s occurs twice", n)
			}
			seen[n] = true
		}
	}
	note(strings.Fields(sh(t, original, who)))
	if err := original.Close(); err != nil {
		t.Error(err)
	}
	value, err := json.Marshal(snap)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		cmd := exec.CommandContext(bounded(t), os.Args[0], "-test.run", "^TestRestoreElsewhere$", "-test.v")
		cmd.Env = append(os.Environ(), restoreEnv+"="+string(value))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		_, after, _ := strings.Cut(string(out), "who: ")
		line, _, _ := strings.Cut(after, "\n")
		note(strings.Fields(line))
	}
	b, err := d.Restore(bounded(t), snap)
	if err != nil {
		t.Fatal(err)
	}
	restored := b.(*Sandbox)
	alive(t, restored)
	checkClocks(t, restored)
	// A copy of what was restored has the file as a layer too.
	list, err := restored.Fork(bounded(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := restored.Close(); err != nil {
		t.Error(err)
	}
	alive(t, list[0])
	note(strings.Fields(sh(t, list[0], who)))
	if err := closeSandboxes(list); err != nil {
		t.Error(err)
	}
	refusesDamaged(t, d, snap)
}

// diskFull saves a sandbox where there is no room, which leaves nothing and does it no harm.
func diskFull(t *testing.T, b *Sandbox) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("test", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	_, err := b.Snapshot(bounded(t), dir)
	if e, ok := errors.AsType[*sandbox.Error](err); !ok || !errors.Is(err, sandbox.ErrNoSpace) || e.Sandbox != b.ID() {
		t.Errorf("on a full disk: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	alive(t, b)
}

// refusesDamaged damages copies of a snapshot in every place that counts, and finds each refused before there is a machine.
func refusesDamaged(t *testing.T, d *Driver, snap sandbox.Snapshot) {
	t.Helper()
	whole, err := os.ReadFile(filepath.Join(snap.Ref, machineName))
	if err != nil {
		t.Fatal(err)
	}
	stampFile, err := os.ReadFile(filepath.Join(snap.Ref, stampName))
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 1; return b }
	}
	for name, c := range map[string]struct {
		change func([]byte) []byte
		want   error
	}{
		"a bit of the header":     {flip(40), sandbox.ErrInvalid},
		"a bit of the memory":     {flip(len(whole) / 2), sandbox.ErrInvalid},
		"a bit of the checksums":  {flip(len(whole) - snapshot.PageSize - 100), sandbox.ErrInvalid},
		"a page less":             {func(b []byte) []byte { return b[:len(b)-snapshot.PageSize] }, sandbox.ErrInvalid},
		"the first page":          {func(b []byte) []byte { return b[:snapshot.PageSize] }, sandbox.ErrInvalid},
		"nothing":                 {func([]byte) []byte { return nil }, sandbox.ErrInvalid},
		"of the next version":     {flip(9), sandbox.ErrUnsupported},
		"something else entirely": {func([]byte) []byte { return bytes.Repeat([]byte("x"), 1<<20) }, sandbox.ErrInvalid},
	} {
		dir := t.TempDir()
		for file, content := range map[string][]byte{machineName: c.change(bytes.Clone(whole)), stampName: stampFile} {
			if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		bad := snap
		bad.Ref = dir
		b, err := d.Restore(bounded(t), bad)
		if e, ok := errors.AsType[*sandbox.Error](err); !ok || !errors.Is(err, c.want) || e.Remedy == "" {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err == nil {
			_ = b.Close()
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
	other := snap
	other.Spec.VCPUs = 7
	if _, err := d.Restore(bounded(t), other); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("with more processors: %v", err)
	}
	other = snap
	other.Spec.Network = sandbox.NetworkOutbound
	if _, err := d.Restore(bounded(t), other); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("with a network: %v", err)
	}
	// Copied as a whole it is as good, and the second time it is known to be.
	copied := snap
	copied.Ref = t.TempDir()
	if err := os.WriteFile(filepath.Join(copied.Ref, machineName), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b, err := d.Restore(bounded(t), copied)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(copied.Ref, stampName)); err != nil {
			t.Errorf("not known to be whole: %v", err)
		}
	}
	if err := errors.Join(d.RemoveSnapshot(t.Context(), copied), d.RemoveSnapshot(t.Context(), copied)); err != nil {
		t.Error(err)
	}
	if _, err := d.Restore(bounded(t), copied); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of one that was removed: %v", err)
	}
}

func TestPrefetchList(t *testing.T) {
	const page = snapshot.PageSize
	early := []snapshot.Run{{RAM: 0, Size: page, Write: true}, {RAM: 4 * page, Size: 2 * page}}
	all := []snapshot.Run{{RAM: 0, Size: 2 * page, Write: true}, {RAM: 4 * page, Size: 3 * page}}
	want := []snapshot.Run{{RAM: 0, Size: page, Write: true}, {RAM: page, Size: page}, {RAM: 4 * page, Size: 3 * page}}
	if got := prefetchList(early, all, 16*page); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	var many []snapshot.Run
	for i := range uint64(3 * snapshot.MaxRuns) {
		many = append(many, snapshot.Run{RAM: 8 * i * page, Size: (1 + i%4) * page})
	}
	if got := prefetchList(nil, many, 8*3*snapshot.MaxRuns*page); len(got) == 0 || len(got) > snapshot.MaxRuns {
		t.Errorf("%d runs", len(got))
	}
}

// A snapshot that is given up, or whose machine is killed meanwhile, leaves nothing.
func TestSnapshotGivenUp(t *testing.T) {
	b := create(t, open(t))
	sh(t, b, "echo before >/root/word")
	for _, delay := range []time.Duration{0, 50, 500, 2000} {
		ctx, cancel := context.WithTimeout(t.Context(), delay*time.Millisecond)
		dir := t.TempDir()
		_, err := b.Snapshot(ctx, dir)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("given up after %v: %v", delay, err)
		}
		if left, readErr := os.ReadDir(dir); readErr != nil || err != nil && len(left) != 0 {
			t.Errorf("given up after %v: left %v, %v", delay, left, readErr)
		}
		if got := sh(t, b, "cat /root/word"); got != "before" {
			t.Errorf("given up after %v: %q", delay, got)
		}
	}
	time.AfterFunc(time.Second, func() { _ = unix.Kill(b.machine.cell.PID(), unix.SIGKILL) })
	dir := t.TempDir()
	_, err := b.Snapshot(bounded(t), dir)
	dead(t, b, err, "killed")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("killed: left %v, %v", left, err)
	}
}
