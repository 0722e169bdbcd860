package sandboxtest

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// ticker is a program that counts in its memory and publishes the count in /tmp/tick.
const ticker = `import os, time
n = 0
while True:
    n += 1
    with open('/tmp/tick.new', 'w') as f: f.write(str(n))
    os.rename('/tmp/tick.new', '/tmp/tick')
    time.sleep(0.02)`

func (b *box) startTicker(t *testing.T) {
	t.Helper()
	b.write(t, "/tmp/ticker.py", ticker)
	b.sh(t, "python3 /tmp/ticker.py >/dev/null 2>&1 </dev/null &")
	if !eventually(20*time.Second, func() bool { return b.run(t, "test", "-s", "/tmp/tick").Success() }) {
		t.Fatal("the ticker does not tick")
	}
}

func (b *box) tick(t *testing.T) string { return b.sh(t, "cat /tmp/tick") }

// ticks checks that the ticker goes on.
func (b *box) ticks(t *testing.T, when string) {
	t.Helper()
	first := b.tick(t)
	if !eventually(10*time.Second, func() bool { return b.tick(t) != first }) {
		t.Errorf("%s: the running program stands still at %s", when, first)
	}
}

// testAbilities tests what a driver offers beyond the contract; what it does not offer is skipped.
func (s *suite) testAbilities(t *testing.T) {
	s.test(t, "Pause", func(t *testing.T, d sandbox.Driver) {
		b := s.create(t, d)
		p, ok := b.Sandbox.(sandbox.Pauser)
		if !ok {
			t.Skipf("%s offers no pause", d.System())
		}
		b.startTicker(t)
		ctx, cancel := bounded(t)
		defer cancel()
		for range 2 { // idempotent
			if err := p.Pause(ctx); err != nil {
				t.Fatalf("pause: %v", err)
			}
		}
		time.Sleep(time.Second)
		for range 2 {
			if err := p.Resume(ctx); err != nil {
				t.Fatalf("resume: %v", err)
			}
		}
		b.ticks(t, "after resume")
		// A paused sandbox can be closed.
		if err := p.Pause(ctx); err != nil {
			t.Fatalf("pause: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("close while paused: %v", err)
		}
	})
	s.test(t, "Connect", s.testConnect)
	s.test(t, "Snapshot", s.testSnapshot)
	s.test(t, "Fork", s.testFork)
	s.test(t, "Diff", s.testDiff)
	s.test(t, "Template", s.testTemplate)
	s.test(t, "HostProcesses", func(t *testing.T, d sandbox.Driver) {
		b := s.create(t, d)
		in, ok := b.Sandbox.(sandbox.Inspector)
		if !ok {
			t.Skipf("%s does not tell its host processes", d.System())
		}
		procs, err := in.HostProcesses(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		guests := 0
		seen := map[int]bool{}
		for _, p := range procs {
			if p.Role == sandbox.RoleGuest {
				guests++
			}
			if p.PID <= 1 || seen[p.PID] {
				t.Errorf("odd process %+v in %+v", p, procs)
			}
			seen[p.PID] = true
		}
		if guests == 0 {
			t.Errorf("no process runs guest code: %+v", procs)
		}
	})
	s.with(t, "Stats", func(t *testing.T, b *box) {
		sr, ok := b.Sandbox.(sandbox.StatsReader)
		if !ok {
			t.Skip("no statistics offered")
		}
		b.sh(t, "python3 -c 'import time; x = bytearray(32 << 20); time.sleep(300)' >/dev/null 2>&1 &")
		var st sandbox.Stats
		var err error
		if !eventually(20*time.Second, func() bool {
			st, err = sr.Stats(t.Context())
			return err == nil && st.MemoryBytes > 32<<20 && st.Processes >= 1
		}) {
			t.Errorf("with 32 MiB in use: %+v, %v", st, err)
		}
	})
}

func (s *suite) testSnapshot(t *testing.T, d sandbox.Driver) {
	ctx, cancel := bounded(t)
	defer cancel()
	original := s.create(t, d)
	snapshotter, ok1 := original.Sandbox.(sandbox.Snapshotter)
	restorer, ok2 := d.(sandbox.Restorer)
	if ok1 != ok2 {
		t.Fatalf("a snapshot can be taken: %v, restored: %v", ok1, ok2)
	}
	if !ok1 {
		t.Skipf("%s offers no snapshots", d.System())
	}
	original.startTicker(t)
	original.write(t, "/root/before", "before")
	snap, err := snapshotter.Snapshot(ctx, t.TempDir())
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	if snap.System != d.System() || snap.Bytes <= 0 || snap.Ref == "" {
		t.Errorf("incomplete: %+v", snap)
	}
	// It is a value that survives storage.
	stored, err := json.Marshal(snap)
	if err != nil {
		t.Fatal(err)
	}
	var loaded sandbox.Snapshot
	if err := json.Unmarshal(stored, &loaded); err != nil {
		t.Fatal(err)
	}
	original.ticks(t, "the original after the snapshot")
	original.write(t, "/root/after", "after")

	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			raw, err := restorer.Restore(ctx, loaded)
			if err != nil {
				t.Errorf("restore: %v", err)
				return
			}
			s.checkRestored(t, &box{raw}, snap.Kind)
			if err := raw.Close(); err != nil {
				t.Errorf("close a restored sandbox: %v", err)
			}
		})
	}
	wg.Wait()
	if err := original.Close(); err != nil {
		t.Errorf("close the original: %v", err)
	}
	raw, err := restorer.Restore(ctx, loaded)
	if err != nil {
		t.Fatalf("restore after the original was closed: %v", err)
	}
	s.checkRestored(t, &box{raw}, snap.Kind)
	for range 2 { // idempotent
		if err := restorer.RemoveSnapshot(ctx, loaded); err != nil {
			t.Errorf("remove snapshot: %v", err)
		}
	}
	(&box{raw}).must(t, "true") // lives on
	if b, err := restorer.Restore(ctx, loaded); err == nil {
		_ = b.Close()
		t.Error("restored from a snapshot that was removed")
	}
}

func (s *suite) checkRestored(t *testing.T, b *box, kind sandbox.SnapshotKind) {
	t.Helper()
	r, err := b.exec(t, shell("cat /root/before; ls /root"))
	if err != nil || !strings.HasPrefix(r.stdout, "before") || strings.Contains(r.stdout, "after") {
		t.Errorf("restored sandbox: %q, %v, %v", r.stdout, r.Exit, err)
		return
	}
	if kind == sandbox.SnapshotFull {
		b.ticks(t, "after restore")
	}
	// Time goes on from now, not from then.
	now, err := b.exec(t, args("date", "+%s"))
	if err != nil {
		t.Error(err)
		return
	}
	var sec int64
	if err := json.Unmarshal([]byte(strings.TrimSpace(now.stdout)), &sec); err != nil {
		t.Errorf("date printed %q", now.stdout)
	} else if off := time.Since(time.Unix(sec, 0)); off > 5*time.Second || off < -5*time.Second {
		t.Errorf("the clock of the restored sandbox is off by %v", off)
	}
}
