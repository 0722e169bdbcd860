package sandboxtest

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

func (s *suite) testClose(t *testing.T) {
	s.test(t, "Twice", func(t *testing.T, d sandbox.Driver) {
		b := s.create(t, d)
		for i := range 2 {
			if err := b.Close(); err != nil {
				t.Errorf("close %d: %v", i+1, err)
			}
		}
		ctx := t.Context()
		_, execErr := b.Exec(ctx, args("true"))
		_, statErr := b.Stat(ctx, "/")
		for name, err := range map[string]error{
			"exec":  execErr,
			"stat":  statErr,
			"read":  b.ReadFile(ctx, "/etc/passwd", io.Discard),
			"write": b.WriteFile(ctx, "/tmp/x", patternReader(1), 0o600),
		} {
			if !errors.Is(err, sandbox.ErrClosed) {
				t.Errorf("%s after close: got %v, want ErrClosed", name, err)
			}
		}
	})
	s.test(t, "FromManySides", func(t *testing.T, d sandbox.Driver) {
		b := s.create(t, d)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := b.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
		}
		wg.Wait()
	})
	s.test(t, "DuringExec", func(t *testing.T, d sandbox.Driver) {
		b := s.create(t, d)
		ended := make(chan error, 4)
		for range cap(ended) {
			go func() {
				_, err := b.Exec(context.Background(), shell(tree))
				ended <- err
			}()
		}
		time.Sleep(500 * time.Millisecond)
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		for range cap(ended) {
			select {
			case err := <-ended:
				if !errors.Is(err, sandbox.ErrClosed) {
					t.Errorf("exec during close: got %v, want ErrClosed", err)
				}
			case <-time.After(patience):
				t.Fatal("Exec did not return after Close")
			}
		}
	})
	s.test(t, "DriverClosesItsSandboxes", func(t *testing.T, d sandbox.Driver) {
		b := s.create(t, d)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Exec(t.Context(), args("true")); !errors.Is(err, sandbox.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		if _, err := d.Create(t.Context(), s.spec()); !errors.Is(err, sandbox.ErrClosed) {
			t.Errorf("create after close: got %v, want ErrClosed", err)
		}
	})
}

func (s *suite) testCreate(t *testing.T) {
	s.test(t, "AtOnce", func(t *testing.T, d sandbox.Driver) {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				ctx, cancel := bounded(t)
				defer cancel()
				b, err := d.Create(ctx, s.spec())
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				if r, err := (&box{b}).exec(t, args("echo", "ok")); err != nil || r.stdout != "ok\n" {
					t.Errorf("exec: %q, %v", r.stdout, err)
				}
				if err := b.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
		}
		wg.Wait()
	})
	s.test(t, "Cancelled", func(t *testing.T, d sandbox.Driver) {
		// One that has ended before it began, then ever later, until Create wins the race.
		for after := time.Duration(0); after < 30*time.Second; after = after*3/2 + 10*time.Millisecond {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			b, err := d.Create(ctx, s.spec())
			cancel()
			if err == nil {
				// The context bounds creation only.
				if r, err := (&box{b}).exec(t, args("echo", "ok")); err != nil || r.stdout != "ok\n" {
					t.Errorf("created within %v: %q, %v", after, r.stdout, err)
				}
				return
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("cancelled after %v: %v, want context.DeadlineExceeded", after, err)
			}
		}
		t.Error("never created")
	})
	s.test(t, "MissingImage", func(t *testing.T, d sandbox.Driver) {
		spec := s.spec()
		spec.Image = sandbox.Image{Rootfs: "/no/such/rootfs", Digest: "sha256:" + zeros(64), Cache: t.TempDir()}
		b, err := d.Create(t.Context(), spec)
		if err == nil {
			_ = b.Close()
			t.Fatal("created from an image that is not there")
		}
		var typed *sandbox.Error
		if !errors.As(err, &typed) {
			t.Errorf("%v is no *sandbox.Error", err)
		}
	})
}

func zeros(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = '0'
	}
	return string(b)
}
