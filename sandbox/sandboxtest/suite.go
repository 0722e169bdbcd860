// Package sandboxtest is the conformance suite of package sandbox: what every driver must do, as
// tests, and what every driver is timed at, as benchmarks.
//
// A driver's test file calls Main from TestMain, Run from one test and Bench from one benchmark:
//
//	func TestMain(m *testing.M) { sandboxtest.Main(m, newDriver) }
//	func TestConformance(t *testing.T) { sandboxtest.Run(t, sandboxtest.Config{...}) }
//
// The image must have a shell, coreutils and python3. Tests of the suite look at the whole host for
// what a sandbox left behind, so no other test of sandboxes may run beside them (go test -p 1).
package sandboxtest

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// Config of a run of the suite.
type Config struct {
	// New makes a driver, as a new process would.
	New func() (sandbox.Driver, error)
	// Image for all sandboxes.
	Image sandbox.Image
	// Traces lists what the system keeps for sandboxes where the suite cannot see it, one line for
	// each thing: containers, images, networks. It may be nil.
	Traces func(ctx context.Context) ([]string, error)
	// VCPUs of all sandboxes but those that ask for a number themselves; 0 is the default of a Spec.
	VCPUs int
	// QuickExecs is how many times `true` is run in a row; 0 means 1,000.
	QuickExecs int
}

// patience bounds every single step of the suite.
const patience = 2 * time.Minute

// Run runs all tests. A system that is not available fails it: the caller decides about skipping.
func Run(t *testing.T, c Config) {
	if c.QuickExecs == 0 {
		c.QuickExecs = 1000
	}
	s := &suite{Config: c}
	t.Run("Probe", s.testProbe)
	t.Run("Spec", s.testSpec)
	t.Run("Exec", s.testExec)
	t.Run("Streams", s.testStreams)
	t.Run("Terminals", s.testTerminal)
	t.Run("Kill", s.testKill)
	t.Run("Files", s.testFiles)
	t.Run("Isolation", s.testIsolation)
	t.Run("Network", s.testNetwork)
	t.Run("Bombs", s.testBombs)
	t.Run("Close", s.testClose)
	t.Run("Create", s.testCreate)
	t.Run("Abilities", s.testAbilities)
	t.Run("KilledOwner", s.testKilledOwner)
}

type suite struct{ Config }

// test runs f as a subtest with a driver of its own and checks that nothing is left afterwards.
func (s *suite) test(t *testing.T, name string, f func(t *testing.T, d sandbox.Driver)) {
	t.Run(name, func(t *testing.T) {
		before := s.look(t)
		d, err := s.New()
		if err != nil {
			t.Fatalf("new driver: %v", err)
		}
		func() {
			defer func() {
				for range 2 { // idempotent
					if err := d.Close(); err != nil {
						t.Errorf("close driver: %v", err)
					}
				}
			}()
			f(t, d)
		}()
		s.checkNothingLeft(t, before)
	})
}

// with is test with one sandbox from the default spec.
func (s *suite) with(t *testing.T, name string, f func(t *testing.T, b *box)) {
	s.test(t, name, func(t *testing.T, d sandbox.Driver) {
		b := s.create(t, d)
		f(t, b)
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

func (s *suite) spec() sandbox.Spec { return sandbox.Spec{Image: s.Image, VCPUs: s.VCPUs} }

func (s *suite) create(t *testing.T, d sandbox.Driver) *box {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b, err := d.Create(ctx, s.spec())
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return &box{b}
}

// box is a sandbox with helpers that fail the test.
type box struct{ sandbox.Sandbox }

type result struct {
	sandbox.Exit
	stdout, stderr string
}

func (b *box) exec(t *testing.T, cmd sandbox.Cmd) (result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errOut bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &errOut
	}
	exit, err := b.Exec(ctx, cmd)
	return result{exit, out.String(), errOut.String()}, err
}

// run runs argv and fails the test unless it ran, whatever the exit.
func (b *box) run(t *testing.T, args ...string) result {
	t.Helper()
	r, err := b.exec(t, sandbox.Cmd{Args: args})
	if err != nil {
		t.Fatalf("exec %q: %v", args, err)
	}
	return r
}

// must runs argv, fails the test unless it succeeded, and returns its trimmed output.
func (b *box) must(t *testing.T, args ...string) string {
	t.Helper()
	r := b.run(t, args...)
	if !r.Success() {
		t.Fatalf("exec %q: %v, stderr %q", args, r.Exit, r.stderr)
	}
	return strings.TrimSpace(r.stdout)
}

func (b *box) sh(t *testing.T, script string) string {
	t.Helper()
	return b.must(t, "sh", "-c", script)
}

func (b *box) read(t *testing.T, name string) string {
	t.Helper()
	var buf bytes.Buffer
	if err := b.ReadFile(t.Context(), name, &buf); err != nil {
		t.Fatalf("read %s: %v", name, err)
	}
	return buf.String()
}

func (b *box) write(t *testing.T, name, content string) {
	t.Helper()
	if err := b.WriteFile(t.Context(), name, strings.NewReader(content), 0o644); err != nil {
		t.Fatalf("write %s: %v", name, err)
	}
}

// eventually polls ok until it holds or d has passed.
func eventually(d time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(d); ; time.Sleep(50 * time.Millisecond) {
		if ok() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// pattern is an endless stream of bytes that do not repeat soon, for comparing what came back.
type pattern struct{ x uint64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		p.x = p.x*6364136223846793005 + 1442695040888963407
		b[i] = byte(p.x >> 56)
	}
	return len(b), nil
}

func patternReader(n int64) io.Reader { return io.LimitReader(&pattern{x: 1}, n) }
