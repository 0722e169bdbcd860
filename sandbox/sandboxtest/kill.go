package sandboxtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// tree is a program that spreads: a child, a grandchild in a session of its own, and one that has
// no parent left and no environment. Each is called "sleep".
const tree = `sleep 301 &
setsid sleep 302 &
(env -i setsid sh -c 'sleep 303 & sleep 304' &) &
sleep 305`

func (s *suite) testKill(t *testing.T) {
	s.with(t, "TimeoutKillsTheTree", func(t *testing.T, b *box) {
		start := time.Now()
		r, err := b.exec(t, sandbox.Cmd{Args: []string{"sh", "-c", tree}, Timeout: time.Second})
		if err != nil || !r.TimedOut || r.Signal != 9 || r.Code != -1 {
			t.Errorf("got %+v, %v", r.Exit, err)
		}
		if took := time.Since(start); took < time.Second || took > 20*time.Second {
			t.Errorf("took %v", took)
		}
		s.gone(t, b, "sleep")
	})
	s.with(t, "TimeoutKeepsTheOutput", func(t *testing.T, b *box) {
		r, err := b.exec(t, sandbox.Cmd{Args: []string{"sh", "-c", "echo before; sleep 300"}, Timeout: time.Second})
		if err != nil || !r.TimedOut || r.stdout != "before\n" {
			t.Errorf("got %q, %+v, %v", r.stdout, r.Exit, err)
		}
	})
	s.with(t, "TimeoutNotReached", func(t *testing.T, b *box) {
		r, err := b.exec(t, sandbox.Cmd{Args: []string{"true"}, Timeout: time.Minute})
		if err != nil || !r.Success() {
			t.Errorf("got %+v, %v", r.Exit, err)
		}
	})
	s.with(t, "CancelKillsTheTree", func(t *testing.T, b *box) {
		for _, after := range []time.Duration{0, 10 * time.Millisecond, time.Second} {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(after, cancel)
			start := time.Now()
			_, err := b.Exec(ctx, sandbox.Cmd{Args: []string{"sh", "-c", tree}})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("after %v: got %v, want context.Canceled", after, err)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("after %v: took %v", after, took)
			}
			cancel()
			s.gone(t, b, "sleep")
		}
	})
	s.with(t, "DeadlineOfTheContext", func(t *testing.T, b *box) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Exec(ctx, args("sleep", "300")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want context.DeadlineExceeded", err)
		}
		s.gone(t, b, "sleep")
	})
	s.with(t, "OthersGoOn", func(t *testing.T, b *box) {
		other := make(chan error, 1)
		go func() {
			r, err := b.exec(t, shell("sleep 3; echo alive"))
			if err == nil && r.stdout != "alive\n" {
				err = errors.New("the other command died: " + r.String())
			}
			other <- err
		}()
		time.Sleep(500 * time.Millisecond)
		r, err := b.exec(t, sandbox.Cmd{Args: []string{"python3", "-c", "while True: pass"}, Timeout: time.Second})
		if err != nil || !r.TimedOut {
			t.Errorf("got %+v, %v", r.Exit, err)
		}
		if err := <-other; err != nil {
			t.Error(err)
		}
	})
	s.with(t, "IgnoredSignals", func(t *testing.T, b *box) {
		r, err := b.exec(t, sandbox.Cmd{Args: []string{"sh", "-c", "trap '' TERM INT HUP; sleep 300; sleep 300"}, Timeout: time.Second})
		if err != nil || !r.TimedOut {
			t.Errorf("got %+v, %v", r.Exit, err)
		}
		s.gone(t, b, "sleep")
	})
}
