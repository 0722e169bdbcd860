package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

func jobSignal(ctx context.Context, a *agent) error {
	exit, err := a.sb.Exec(ctx, sandbox.Cmd{Args: []string{"sh", "-c", "kill -9 $$"}})
	if err != nil {
		return err
	}
	return same("end", exit.String(), "signal 9")
}

// tree is a program with descendants of which one has a session of its own. Each sleeps for so
// many seconds, by which number it is found.
func tree(seconds string) []string {
	return []string{"sh", "-c", "setsid sleep " + seconds + " & sleep " + seconds + " & sleep " + seconds}
}

// gone checks that no process of a tree is left. What was killed may take a moment to be reaped.
func (a *agent) gone(ctx context.Context, seconds string) error {
	for deadline := time.Now().Add(5 * time.Second); ; {
		// The number is looked for here and not by grep, which would find itself.
		out, err := run(ctx, a.sb, "sh", "-c", `for f in /proc/[0-9]*/cmdline; do tr '\0' ' ' <$f; echo; done 2>/dev/null; true`)
		if err != nil {
			return err
		}
		if !strings.Contains(out, "sleep "+seconds) {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("descendants of the program are still there")
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

func jobTimeout(ctx context.Context, a *agent) error {
	start := time.Now()
	exit, err := a.sb.Exec(ctx, sandbox.Cmd{Args: tree("86311"), Timeout: 2 * time.Second})
	if err != nil {
		return err
	}
	if err := same("end", exit.String(), "timed out"); err != nil {
		return err
	}
	if took := time.Since(start); took > 20*time.Second {
		return fmt.Errorf("it took %v to end a program after 2 s", took.Round(time.Second))
	}
	return a.gone(ctx, "86311")
}

func jobCancel(ctx context.Context, a *agent) error {
	cancelled, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.AfterFunc(2*time.Second, cancel)
	defer timer.Stop()
	start := time.Now()
	_, err := a.sb.Exec(cancelled, sandbox.Cmd{Args: tree("86312")})
	if !errors.Is(err, context.Canceled) {
		return unlike("the result", err, context.Canceled)
	}
	if took := time.Since(start); took > 20*time.Second {
		return fmt.Errorf("it took %v to cancel after 2 s", took.Round(time.Second))
	}
	return a.gone(ctx, "86312")
}

func jobBackground(ctx context.Context, a *agent) error {
	out, err := run(ctx, a.sb, "sh", "-c", "setsid sleep 86313 </dev/null >/dev/null 2>&1 & echo $!")
	if err != nil {
		return err
	}
	pid := strings.TrimSpace(out)
	if _, err := strconv.Atoi(pid); err != nil {
		return fmt.Errorf("no process ID but %.40q", pid)
	}
	if _, err := run(ctx, a.sb, "sh", "-c", "kill -0 "+pid+" && kill "+pid); err != nil {
		return fmt.Errorf("the process is not found again: %w", err)
	}
	return a.gone(ctx, "86313")
}

func jobConcurrent(ctx context.Context, a *agent) error {
	const n = 8
	errs := make([]error, n)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range n {
		wg.Go(func() {
			word := fmt.Sprintf("program %d", i)
			out, err := run(ctx, a.sb, "sh", "-c", "sleep 1; echo "+word)
			if err == nil {
				err = same("output", out, word+"\n")
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 5*time.Second {
		errs = append(errs, fmt.Errorf("they took %v", took.Round(time.Millisecond)))
	}
	return errors.Join(errs...)
}

// firstWrite notes when the first byte came.
type firstWrite struct {
	mu sync.Mutex
	at time.Time
}

func (w *firstWrite) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at.IsZero() && len(p) > 0 {
		w.at = time.Now()
	}
	return len(p), nil
}

func jobStream(ctx context.Context, a *agent) error {
	var first firstWrite
	exit, err := a.sb.Exec(ctx, sandbox.Cmd{Args: []string{"sh", "-c", "echo first; sleep 2; echo second"}, Stdout: &first})
	end := time.Now()
	switch {
	case err != nil:
		return err
	case !exit.Success():
		return unlike("end", exit, "exit 0")
	case first.at.IsZero():
		return errors.New("no output came")
	case end.Sub(first.at) < time.Second:
		return fmt.Errorf("the first line came %v before the end", end.Sub(first.at).Round(time.Millisecond))
	}
	return nil
}

// counter counts the bytes written to it.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

func jobLarge(ctx context.Context, a *agent) error {
	const size = 16 << 20
	var c counter
	exit, err := a.sb.Exec(ctx, sandbox.Cmd{Args: []string{"head", "-c", strconv.Itoa(size), "/dev/zero"}, Stdout: &c})
	if err != nil {
		return err
	}
	return errors.Join(same("end", exit.String(), "exit 0"), same("number of bytes", c.n, size))
}

func jobNetworkOff(ctx context.Context, a *agent) error {
	// Connecting a datagram socket sends nothing: it only looks for a route.
	const program = `
import socket
for family, address in ((socket.AF_INET, "1.1.1.1"), (socket.AF_INET6, "2606:4700:4700::1111")):
    try:
        socket.socket(family, socket.SOCK_DGRAM).connect((address, 53))
        print("route")
    except OSError:
        print("none")
`
	out, err := run(ctx, a.sb, "python3", "-c", program)
	if err != nil {
		return err
	}
	return same("what routes there are", out, "none\nnone\n")
}
