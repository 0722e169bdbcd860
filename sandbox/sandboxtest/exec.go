package sandboxtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

func (s *suite) testProbe(t *testing.T) {
	s.test(t, "Available", func(t *testing.T, d sandbox.Driver) {
		info := d.Probe(t.Context())
		if !info.Available {
			t.Fatalf("not available: %s (%s)", info.Reason, info.Remedy)
		}
		if info.System != d.System() || info.Version == "" || info.Accelerator == "" {
			t.Errorf("incomplete: %+v", info)
		}
	})
}

func (s *suite) testSpec(t *testing.T) {
	s.test(t, "InvalidIsRefused", func(t *testing.T, d sandbox.Driver) {
		for name, change := range map[string]func(*sandbox.Spec){
			"no image":        func(s *sandbox.Spec) { s.Image = sandbox.Image{} },
			"negative vCPUs":  func(s *sandbox.Spec) { s.VCPUs = -1 },
			"tiny memory":     func(s *sandbox.Spec) { s.MemoryMiB = 1 },
			"unknown network": func(s *sandbox.Spec) { s.Network = "host" },
			"bad egress rule": func(s *sandbox.Spec) {
				s.Network, s.Egress = sandbox.NetworkOutbound, []string{"https://pypi.org"}
			},
			"egress rule without a network": func(s *sandbox.Spec) { s.Egress = []string{"pypi.org"} },
			"bad environment":               func(s *sandbox.Spec) { s.Env = []string{"=x"} },
		} {
			spec := s.spec()
			change(&spec)
			if b, err := d.Create(t.Context(), spec); !errors.Is(err, sandbox.ErrInvalid) {
				t.Errorf("%s: got %v, want ErrInvalid", name, err)
				if err == nil {
					_ = b.Close()
				}
			}
		}
	})
	s.test(t, "EnvironmentAndCPUs", func(t *testing.T, d sandbox.Driver) {
		spec := s.spec()
		spec.VCPUs, spec.Env = 2, []string{"FROM_SPEC=1", "BOTH=spec"}
		raw, err := d.Create(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		b := &box{raw}
		r, err := b.exec(t, sandbox.Cmd{Args: []string{"sh", "-c", "echo $FROM_SPEC $BOTH"}, Env: []string{"BOTH=cmd"}})
		if err != nil || r.stdout != "1 cmd\n" {
			t.Errorf("got %q, %v", r.stdout, err)
		}
	})
}

func (s *suite) testExec(t *testing.T) {
	s.with(t, "Basics", func(t *testing.T, b *box) {
		for _, c := range []struct {
			name           string
			cmd            sandbox.Cmd
			code, signal   int
			stdout, stderr string
		}{
			{name: "output apart from errors", cmd: shell("echo out; echo err >&2"), stdout: "out\n", stderr: "err\n"},
			{name: "exit code", cmd: shell("exit 3"), code: 3},
			{name: "highest exit code", cmd: shell("exit 255"), code: 255},
			{name: "exit code like a signal", cmd: shell("exit 137"), code: 137},
			{name: "exit code like not found", cmd: shell("exit 127"), code: 127},
			{name: "signal", cmd: shell("kill -TERM $$"), code: -1, signal: 15},
			{name: "kill", cmd: shell("kill -KILL $$"), code: -1, signal: 9},
			{name: "argv is not a shell line", cmd: args("echo", "a  b", "$HOME", "*", ";x"), stdout: "a  b $HOME * ;x\n"},
			{name: "empty argument", cmd: args("printf", "[%s]", "", "x"), stdout: "[][x]"},
			{name: "environment", cmd: withEnv(shell("echo $A-$B"), "A=1", "B=two words"), stdout: "1-two words\n"},
			{name: "last value wins", cmd: withEnv(shell("echo $A"), "A=1", "A=2"), stdout: "2\n"},
			{name: "default directory", cmd: args("pwd"), stdout: "/\n"},
			{name: "directory", cmd: sandbox.Cmd{Args: []string{"pwd"}, Dir: "/usr/bin"}, stdout: "/usr/bin\n"},
			{name: "relative program", cmd: sandbox.Cmd{Args: []string{"./sh", "-c", "echo ok"}, Dir: "/bin"}, stdout: "ok\n"},
			{name: "empty stdin", cmd: args("cat")},
			{name: "stdin", cmd: withStdin(args("tr", "a-z", "A-Z"), "hello"), stdout: "HELLO"},
			{name: "stdin not read", cmd: withStdin(args("true"), strings.Repeat("x", 1<<20))},
			{name: "python", cmd: args("python3", "-c", "print(6*7)"), stdout: "42\n"},
			{name: "home and path", cmd: shell("cd ~ && command -v python3 >/dev/null && echo ok"), stdout: "ok\n"},
		} {
			r, err := b.exec(t, c.cmd)
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			if r.Code != c.code || r.Signal != c.signal || r.stdout != c.stdout || r.stderr != c.stderr || r.TimedOut {
				t.Errorf("%s: got %v, stdout %q, stderr %q", c.name, r.Exit, r.stdout, r.stderr)
			}
			if r.Duration <= 0 {
				t.Errorf("%s: duration %v", c.name, r.Duration)
			}
		}
	})
	s.with(t, "CannotRun", func(t *testing.T, b *box) {
		b.write(t, "/tmp/plain", "not a program")
		for name, cmd := range map[string]sandbox.Cmd{
			"not in PATH":          args("no-such-program"),
			"no such file":         args("/no/such/program"),
			"not executable":       args("/tmp/plain"),
			"directory":            args("/usr"),
			"no working directory": {Args: []string{"true"}, Dir: "/no/such/dir"},
		} {
			_, err := b.exec(t, cmd)
			var typed *sandbox.Error
			if !errors.Is(err, sandbox.ErrCannotRun) || !errors.As(err, &typed) || typed.Detail == "" {
				t.Errorf("%s: got %v, want ErrCannotRun with a detail", name, err)
			}
		}
		for name, cmd := range map[string]sandbox.Cmd{
			"no program":         {},
			"relative directory": {Args: []string{"true"}, Dir: "tmp"},
			"bad environment":    withEnv(args("true"), "novalue"),
			"NUL in argument":    args("echo", "a\x00b"),
			"negative timeout":   {Args: []string{"true"}, Timeout: -1},
		} {
			if _, err := b.exec(t, cmd); !errors.Is(err, sandbox.ErrInvalid) {
				t.Errorf("%s: got %v, want ErrInvalid", name, err)
			}
		}
	})
	s.with(t, "Quick", func(t *testing.T, b *box) {
		start := time.Now()
		for i := range s.QuickExecs {
			if r := b.run(t, "true"); !r.Success() {
				t.Fatalf("exec %d: %v", i, r.Exit)
			}
		}
		t.Logf("%d execs in %v", s.QuickExecs, time.Since(start).Round(time.Millisecond))
		// Nothing of them may pile up inside.
		if n := b.sh(t, "ls -d /proc/[0-9]* | wc -l"); len(n) > 2 {
			t.Errorf("%s processes are left inside", n)
		}
	})
	s.with(t, "Concurrent", func(t *testing.T, b *box) {
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				want := fmt.Sprintf("%d\n", i)
				r, err := b.exec(t, withStdin(shell("cat; sleep 0.2"), want))
				if err != nil || r.stdout != want {
					t.Errorf("exec %d: got %q, %v, %v", i, r.stdout, r.Exit, err)
				}
			})
		}
		wg.Wait()
	})
	s.with(t, "BackgroundOutlivesItsExec", func(t *testing.T, b *box) {
		pid := b.sh(t, "sleep 300 >/dev/null 2>&1 & echo $!")
		b.must(t, "kill", "-0", pid)
		// One that keeps the output open must not keep Exec from returning.
		start := time.Now()
		r := b.run(t, "sh", "-c", "echo now; sleep 300 &")
		if r.stdout != "now\n" || time.Since(start) > 30*time.Second {
			t.Errorf("got %q after %v", r.stdout, time.Since(start))
		}
	})
}

func (s *suite) testStreams(t *testing.T) {
	s.with(t, "Large", func(t *testing.T, b *box) {
		const size = 50 << 20
		want := sha256.New()
		if _, err := io.Copy(want, patternReader(size)); err != nil {
			t.Fatal(err)
		}
		got := sha256.New()
		start := time.Now()
		r, err := b.exec(t, sandbox.Cmd{Args: []string{"cat"}, Stdin: patternReader(size), Stdout: got})
		if err != nil || !r.Success() {
			t.Fatalf("%v, %v", r.Exit, err)
		}
		if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
			t.Error("what came back differs from what was sent")
		}
		t.Logf("50 MiB in and out in %v", time.Since(start).Round(time.Millisecond))
	})
	s.with(t, "BothAtOnce", func(t *testing.T, b *box) {
		const size = 4 << 20
		out, errOut := &counter{}, &counter{}
		r, err := b.exec(t, sandbox.Cmd{
			Args:   []string{"sh", "-c", fmt.Sprintf("head -c %d /dev/zero & head -c %d /dev/zero >&2; wait", size, size)},
			Stdout: out, Stderr: errOut,
		})
		if err != nil || !r.Success() || out.n != size || errOut.n != size {
			t.Errorf("%v, %v: %d bytes out, %d err", r.Exit, err, out.n, errOut.n)
		}
	})
	s.with(t, "AsProduced", func(t *testing.T, b *box) {
		// The answer to each line must arrive before the next is sent.
		in, feed := io.Pipe()
		answers, out := io.Pipe()
		done := make(chan error, 1)
		go func() {
			r, err := b.exec(t, sandbox.Cmd{Args: []string{"sh", "-c", "while read x; do echo got $x; done"}, Stdin: in, Stdout: out})
			if err == nil && !r.Success() {
				err = errors.New(r.String())
			}
			_ = out.Close()
			done <- err
		}()
		buf := make([]byte, 64)
		for i := range 3 {
			if _, err := fmt.Fprintf(feed, "%d\n", i); err != nil {
				t.Fatal(err)
			}
			n, err := answers.Read(buf)
			if want := fmt.Sprintf("got %d\n", i); err != nil || string(buf[:n]) != want {
				t.Fatalf("got %q, %v", buf[:n], err)
			}
		}
		_ = feed.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	s.with(t, "FailingWriterEndsTheProgram", func(t *testing.T, b *box) {
		broken := errors.New("nobody listens")
		_, err := b.exec(t, sandbox.Cmd{Args: []string{"yes"}, Stdout: failing{broken}})
		if !errors.Is(err, broken) {
			t.Errorf("got %v, want the writer's error", err)
		}
		s.gone(t, b, "yes")
	})
	s.with(t, "FailingReaderEndsStdin", func(t *testing.T, b *box) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		// Whether it is an error is the driver's choice; that it ends is not.
		_, _ = b.Exec(ctx, sandbox.Cmd{Args: []string{"cat"}, Stdin: io.MultiReader(strings.NewReader("x"), failing{errors.New("broken")})})
		if ctx.Err() != nil {
			t.Error("Exec did not return")
		}
	})
}

// gone checks that no process of the name is left inside.
func (s *suite) gone(t *testing.T, b *box, name string) {
	t.Helper()
	script := fmt.Sprintf("for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = %s ] && echo $p; done; true", name)
	if !eventually(10*time.Second, func() bool { return b.sh(t, script) == "" }) {
		t.Errorf("%s still runs inside", name)
	}
}

func args(a ...string) sandbox.Cmd    { return sandbox.Cmd{Args: a} }
func shell(script string) sandbox.Cmd { return args("sh", "-c", script) }
func withEnv(c sandbox.Cmd, env ...string) sandbox.Cmd {
	c.Env = env
	return c
}
func withStdin(c sandbox.Cmd, text string) sandbox.Cmd {
	c.Stdin = strings.NewReader(text)
	return c
}

type counter struct{ n int }

func (c *counter) Write(p []byte) (int, error) {
	c.n += len(p)
	return len(p), nil
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
func (f failing) Read([]byte) (int, error)  { return 0, f.err }
