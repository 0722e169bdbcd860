package lease

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const helperEnv = "AETHER_LEASE_HELPER"

// TestMain lets the test binary stand in for a process that holds a lease until it is killed.
func TestMain(m *testing.M) {
	if root := os.Getenv(helperEnv); root != "" {
		l, err := Acquire(root)
		if err != nil {
			println(err.Error())
			os.Exit(1)
		}
		fmt.Println(l.ID)
		select {}
	}
	os.Exit(m.Run())
}

func TestLivingLeaseIsNotDead(t *testing.T) {
	root := t.TempDir()
	l, err := Acquire(root)
	if err != nil {
		t.Fatal(err)
	}
	if dead, err := Dead(root); err != nil || len(dead) != 0 {
		t.Fatalf("Dead = %v, %v; want none", dead, err)
	}
	for range 2 {
		if err := l.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if entries, _ := os.ReadDir(root); len(entries) != 0 {
		t.Fatalf("left after Release: %v", entries)
	}
}

func TestKilledOwnerIsDead(t *testing.T) {
	root := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"="+root)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	id = id[:len(id)-1]
	if dead, err := Dead(root); err != nil || len(dead) != 0 {
		t.Fatalf("while the owner lives: Dead = %v, %v", dead, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	dead, err := Dead(root)
	if err != nil || len(dead) != 1 || dead[0].ID != id {
		t.Fatalf("Dead = %v, %v; want lease %s", dead, err, id)
	}
	if again, err := Dead(root); err != nil || len(again) != 0 {
		t.Fatalf("a second sweeper got %v, %v", again, err)
	}
	dead[0].Abandon()
	dead, err = Dead(root)
	if err != nil || len(dead) != 1 {
		t.Fatalf("after Abandon: Dead = %v, %v", dead, err)
	}
	if err := dead[0].Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, id)); !os.IsNotExist(err) {
		t.Fatalf("lease directory still there: %v", err)
	}
}

func TestLeaseInTheMakingIsLeftAlone(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, newPrefix+NewID()), 0o700); err != nil {
		t.Fatal(err)
	}
	if dead, err := Dead(root); err != nil || len(dead) != 0 {
		t.Fatalf("Dead = %v, %v; want none", dead, err)
	}
}

func TestNewIDsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 10_000 {
		id := NewID()
		if len(id) != 16 || seen[id] {
			t.Fatalf("bad or repeated ID %q", id)
		}
		seen[id] = true
	}
}

func TestSweepRemovesTheDeadOnly(t *testing.T) {
	root := t.TempDir()
	living, err := Acquire(root)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := living.Release(); err != nil {
			t.Error(err)
		}
	}()
	for range 3 {
		l, err := Acquire(root)
		if err != nil {
			t.Fatal(err)
		}
		l.Abandon() // as its owner's death does
	}
	remove := func(_ context.Context, l *Lease) (int, error) { return 2, l.Release() }

	ended, end := context.WithCancel(t.Context())
	end()
	if n, err := Sweep(ended, root, remove); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %d, %v", n, err)
	}
	if n, err := Sweep(t.Context(), root, remove); n != 6 || err != nil {
		t.Errorf("swept %d, %v; want 6", n, err)
	}
	if n, err := Sweep(t.Context(), root, remove); n != 0 || err != nil {
		t.Errorf("swept again: %d, %v", n, err)
	}
	if _, err := os.Stat(living.Dir); err != nil {
		t.Errorf("the living lease: %v", err)
	}
}
