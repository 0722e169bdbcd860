package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/tail"
	"github.com/aethervm/aether/internal/testenv"
)

func TestEndOf(t *testing.T) {
	tl := tail.New(tailSize)
	_, _ = tl.Write([]byte("booting\nKernel panic\n"))
	if got := endOf(tl, 1); got != "Kernel panic" {
		t.Errorf("last line %q", got)
	}
	_, _ = tl.Write([]byte("registers\nmore\nmore\n"))
	if got := endOf(tl, 2); got != "Kernel panic | registers" {
		t.Errorf("after a panic: %q", got)
	}
	tl = tail.New(tailSize)
	_, _ = tl.Write([]byte("one\n\n\x1b[2Jtwo\xff\nthree\n"))
	if got := endOf(tl, 2); got != "[2Jtwo | three" {
		t.Errorf("last lines %q", got)
	}
}

func TestOnce(t *testing.T) {
	var o once[int]
	var made atomic.Int32
	failed := errors.New("failed")
	if _, err := o.get(t.Context(), func(context.Context) (int, error) { return 0, failed }); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			v, err := o.get(t.Context(), func(context.Context) (int, error) {
				made.Add(1)
				time.Sleep(10 * time.Millisecond)
				return 7, nil
			})
			if v != 7 || err != nil {
				t.Errorf("got %d, %v", v, err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("made %d times", made.Load())
	}
	if v, ok := o.take(); v != 7 || !ok {
		t.Errorf("took %d, %v", v, ok)
	}
	if _, ok := o.take(); ok {
		t.Error("took twice")
	}
	// One that waits for another's attempt waits no longer than its context.
	release := make(chan struct{})
	wg.Go(func() {
		_, _ = o.get(context.Background(), func(context.Context) (int, error) { <-release; return 0, nil })
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for { // until the other is at it
		_, err := o.get(ctx, func(context.Context) (int, error) { return 0, failed })
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if !errors.Is(err, failed) {
			t.Fatalf("got %v", err)
		}
	}
	close(release)
	wg.Wait()
}

func TestArguments(t *testing.T) {
	c := machineConfig{id: "abc", accelerator: accelTCG, vcpus: 2, memoryMiB: 256, tscKHz: 2_600_000}
	args := c.arguments(false)
	line := strings.Join(args, " ")
	for _, want := range []string{"-name aether-abc", "-smp 2", "-m 352M", "tcg,", "tsc_early_khz=2600000", "spawn=deny", "-- init"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is missing in %s", want, line)
		}
	}
	for _, bad := range []string{"-netdev", "-incoming", "host"} {
		if slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, bad) }) {
			t.Errorf("%q in %s", bad, line)
		}
	}
	c.accelerator = accelKVM
	line = strings.Join(c.arguments(true), " ")
	for _, want := range []string{"-accel kvm", "-cpu host", "-incoming fd:8"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is missing in %s", want, line)
		}
	}
	if strings.Contains(line, "mitigations=off") || strings.Contains(line, "norandmaps") {
		t.Errorf("a guest under KVM is not hardened: %s", line)
	}
}

func TestIdentities(t *testing.T) {
	testenv.Root(t)
	seen := map[uint32]bool{}
	for range 50 {
		i, err := takeIdentity()
		if err != nil {
			t.Fatal(err)
		}
		defer i.release()
		if seen[i.uid] || i.uid < firstUID || i.uid >= firstUID+uidCount {
			t.Fatalf("user %d", i.uid)
		}
		seen[i.uid] = true
	}
}

func TestTrialCache(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "trial.json")
	if _, ok := cachedTrial(path, "k"); ok {
		t.Error("an answer without a trial")
	}
	want := accelerator{Name: accelTCG, Reason: "why"}
	storeTrial(path, "k", want)
	if got, ok := cachedTrial(path, "k"); !ok || got != want {
		t.Errorf("got %+v, %v", got, ok)
	}
	if _, ok := cachedTrial(path, "other boot"); ok {
		t.Error("the answer of another boot is used")
	}
	for _, bad := range []string{"", "{", `{"key":"k"}`} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok := cachedTrial(path, "k"); ok {
			t.Errorf("%q was taken for an answer", bad)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestForcedAccelerator(t *testing.T) {
	for value, want := range map[string]string{"kvm": accelKVM, "tcg": accelTCG, "hvf": ""} {
		t.Setenv(envAccelerator, value)
		a, err := chooseAccelerator(t.Context(), "qemu", nil)
		if a.Name != want || (want == "") != (err != nil) {
			t.Errorf("%s: %+v, %v", value, a, err)
		}
	}
}

func TestMigrationStatus(t *testing.T) {
	var m migration
	if err := json.Unmarshal([]byte(`{"status":"failed","error-desc":"disk full"}`), &m); err != nil || m.Status != "failed" || m.ErrorDesc != "disk full" {
		t.Errorf("got %+v, %v", m, err)
	}
}
