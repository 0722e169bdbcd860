package runtime

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/driver/all/drivertest"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// TestRealSnapshots takes two snapshots of a sandbox, puts it back to each of them in turn, makes others of them, and finds
// them again in the next process, on the systems of this host that save memory.
func TestRealSnapshots(t *testing.T) {
	for system, need := range map[string]string{"gvisor": "GVISOR", "qemu-kvm": "QEMU", "aethervm": "REAL_KVM"} {
		t.Run(system, func(t *testing.T) {
			testenv.Image(t)
			d := drivertest.Real(t, system, need)
			store, err := image.Default()
			if err != nil {
				t.Fatal(err)
			}
			cfg := Config{StateDir: t.TempDir(), Drivers: []sandbox.Driver{d}, Images: StoreImages(store)}
			r, err := Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			s := (&world{Runtime: r}).session(t, SessionSpec{})
			box := s.mustCreate(t, SandboxSpec{})
			snaps := realRollbacks(t, s, box)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}

			// The next process.
			if r, err = Open(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}()
			s = (&world{Runtime: r}).session(t, SessionSpec{})
			info, err := s.Restore(t.Context(), RestoreRequest{Snapshot: snaps[0]})
			if err != nil {
				t.Fatal(err)
			}
			checkAt(t, s, info.ID, "1")
			for _, id := range snaps {
				if err := s.RemoveSnapshot(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
			checkAt(t, s, info.ID, "1") // it lives on
			if left, err := os.ReadDir(filepath.Join(cfg.StateDir, snapshotsName)); err != nil || len(left) != 0 {
				t.Errorf("left: %v, %v", left, err)
			}
			_, err = s.Restore(t.Context(), RestoreRequest{Snapshot: snaps[0]})
			want(t, "removed", err, CodeNotFound)
		})
	}
}

// checkAt checks that a sandbox is at a point: in its file, in its interpreter, and in what runs in it.
func checkAt(t *testing.T, s *Session, box, point string) {
	t.Helper()
	if res := s.mustRun(t, box, "cat /root/point"); strings.TrimSpace(res.Stdout) != point {
		t.Errorf("its file is at %q, want %s", res.Stdout, point)
	}
	res, err := s.Code(t.Context(), CodeRequest{Sandbox: box, Code: "point", Timeout: time.Minute})
	if err != nil || res.Value != point || res.Fresh || res.Lost != "" {
		t.Errorf("its interpreter: %+v, %v; want %s", res, err, point)
	}
	if res := s.mustRun(t, box, "a=$(cat /root/tick); sleep 0.5; b=$(cat /root/tick); for i in 1 2 3 4 5 6 7 8 9 10; do [ \"$a\" != \"$b\" ] && break; sleep 0.5; b=$(cat /root/tick); done; echo $a $b; [ \"$a\" != \"$b\" ]"); *res.ExitCode != 0 {
		t.Errorf("its program stands still: %+v", res)
	}
}

// setPoint brings a sandbox to a point.
func setPoint(t *testing.T, s *Session, box, point string) {
	t.Helper()
	s.mustRun(t, box, "echo "+point+" >/root/point")
	if _, err := s.Code(t.Context(), CodeRequest{Sandbox: box, Code: "point = " + point, Timeout: time.Minute}); err != nil {
		t.Fatal(err)
	}
}

// realRollbacks puts a sandbox back and forth between two snapshots, which it returns.
func realRollbacks(t *testing.T, s *Session, box string) (snaps []string) {
	t.Helper()
	s.mustRun(t, box, "(n=0; while :; do n=$((n+1)); echo $n >/root/tick.new; mv /root/tick.new /root/tick; sleep 0.05; done) >/dev/null 2>&1 </dev/null &")
	for _, point := range []string{"1", "2"} {
		setPoint(t, s, box, point)
		snap, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box, Name: point})
		if err != nil {
			t.Fatal(err)
		}
		if snap.Kind != sandbox.SnapshotFull || snap.Bytes <= 0 || snap.Sandbox != box {
			t.Errorf("%+v", snap)
		}
		snaps = append(snaps, snap.ID)
	}
	setPoint(t, s, box, "3")
	later := s.mustStart(t, box, "sleep 1000")
	for _, i := range []int{1, 0, 1, 0} {
		begin := time.Now()
		info, err := s.Rollback(t.Context(), RollbackRequest{Sandbox: box, Snapshot: snaps[i]})
		if err != nil {
			t.Fatalf("rollback to %d: %v", i+1, err)
		}
		t.Logf("rolled back after %v", time.Since(begin))
		if info.ID != box || info.State != StateRunning {
			t.Errorf("%+v", info)
		}
		checkAt(t, s, box, []string{"1", "2"}[i])
	}
	// What was begun after the snapshot is not there any more, and says so.
	if res, err := s.Poll(t.Context(), PollRequest{Process: later}); err == nil && res.Running {
		t.Errorf("what was begun after the snapshot still runs: %+v", res)
	}
	// A rollback that is given up leaves the sandbox as it was, or puts it back.
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := s.Rollback(ctx, RollbackRequest{Sandbox: box, Snapshot: snaps[1]}); err == nil {
		checkAt(t, s, box, "2")
	} else {
		checkAt(t, s, box, "1")
	}
	// It can be saved, and copied, as before.
	setPoint(t, s, box, "4")
	again, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: box})
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Restore(t.Context(), RestoreRequest{Snapshot: again.ID})
	if err != nil {
		t.Fatal(err)
	}
	checkAt(t, s, info.ID, "4")
	if info.ID == box || info.Snapshot != again.ID {
		t.Errorf("%+v", info)
	}
	forked, err := s.Fork(t.Context(), ForkRequest{Sandbox: box, Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	checkAt(t, s, forked.Children[0].Sandbox.ID, "4")
	_, err = s.Rollback(t.Context(), RollbackRequest{Sandbox: box, Snapshot: "snaaaaaaaaaa"})
	want(t, "no such snapshot", err, CodeNotFound)
	return append(snaps, again.ID)
}
