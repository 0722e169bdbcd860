package sandboxtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// ownerEnv holds the spec, as JSON, for a test binary that plays an owner of sandboxes.
const ownerEnv = "AETHER_SANDBOXTEST_OWNER"

// Main is for TestMain. It runs the tests, except in a process that testKilledOwner has started:
// that one makes sandboxes until it is killed.
func Main(m *testing.M, newDriver func() (sandbox.Driver, error)) {
	specJSON := os.Getenv(ownerEnv)
	if specJSON == "" {
		os.Exit(m.Run())
	}
	fmt.Println("error:", own(specJSON, newDriver))
	os.Exit(1)
}

// own makes two sandboxes with running programs, reports, and then creates and closes others until
// something fails or it is killed, so that the kill comes at any point of a life.
func own(specJSON string, newDriver func() (sandbox.Driver, error)) error {
	var spec sandbox.Spec
	if err := json.Unmarshal([]byte(specJSON), &spec); err != nil {
		return err
	}
	d, err := newDriver()
	if err != nil {
		return err
	}
	ctx := context.Background()
	for range 2 {
		b, err := d.Create(ctx, spec)
		if err != nil {
			return err
		}
		go func() { _, _ = b.Exec(ctx, shell(tree)) }()
		if _, err := b.Exec(ctx, args("true")); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	for {
		b, err := d.Create(ctx, spec)
		if err != nil {
			return err
		}
		if err := b.Close(); err != nil {
			return err
		}
	}
}

// testKilledOwner kills the process that drives sandboxes with SIGKILL, at several moments, and
// checks that Sweep finds everything, and nothing of the living.
func (s *suite) testKilledOwner(t *testing.T) {
	specJSON, err := json.Marshal(s.spec())
	if err != nil {
		t.Fatal(err)
	}
	s.test(t, "SweepRemovesAll", func(t *testing.T, d sandbox.Driver) {
		ours := s.create(t, d)
		before := s.look(t)
		for _, after := range []time.Duration{0, 30 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond} {
			killOwnerAfter(t, string(specJSON), after)
		}
		ctx, cancel := bounded(t)
		defer cancel()
		n, err := d.Sweep(ctx)
		if err != nil {
			t.Errorf("sweep: %v", err)
		}
		t.Logf("swept %d", n)
		ours.must(t, "true")
		s.checkNothingLeft(t, before)
		if n, err := d.Sweep(ctx); n != 0 || err != nil {
			t.Errorf("second sweep: %d, %v; want 0", n, err)
		}
		ours.must(t, "true")
	})
}

func killOwnerAfter(t *testing.T, specJSON string, after time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), ownerEnv+"="+specJSON)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	time.Sleep(after)
	_ = cmd.Process.Kill()
	_ = out.Close()
	_ = cmd.Wait() // it was killed
	if err != nil || strings.TrimSpace(line) != "ready" {
		t.Fatalf("the owner said %q, %v", line, err)
	}
}
