package aethervm

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// A fork that is given up leaves no copy behind, and the original as it was.
func TestForkCancelled(t *testing.T) {
	d := open(t)
	original := create(t, d)
	sh(t, original, "sh -c 'i=0; while :; do i=$((i+1)); echo $i >/tmp/n; sleep 0.05; done' >/dev/null 2>&1 </dev/null &")
	for _, delay := range []time.Duration{0, 5, 20, 60, 150, 400, 1000} {
		ctx, cancel := context.WithTimeout(t.Context(), delay*time.Millisecond)
		list, err := original.Fork(ctx, 4)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", delay, err)
		}
		if err := closeSandboxes(list); err != nil {
			t.Error(err)
		}
		// It is thawed.
		if sh(t, original, "a=$(cat /tmp/n); for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2; [ \"$(cat /tmp/n)\" = \"$a\" ] || { echo goes on; break; }; done") != "goes on" {
			t.Fatalf("given up after %v: the original stands still", delay)
		}
	}
}

func TestForkPaused(t *testing.T) {
	b := create(t, open(t))
	if err := b.Pause(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if list, err := b.Fork(bounded(t), 1); !errors.Is(err, sandbox.ErrUnsupported) || list != nil {
		t.Errorf("%v, %v", list, err)
	}
	if err := b.Resume(bounded(t)); err != nil {
		t.Fatal(err)
	}
	sh(t, b, "true")
}

// Copies have cards of their own, and reach what the original may.
func TestForkNetwork(t *testing.T) {
	d := open(t)
	s := serve(t, "127.0.0.1:0")
	d.outside.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, network, s.Listener.Addr().String())
	}
	d.outside.resolve = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("203.0.113.7")}, nil
	}
	raw, err := d.Create(bounded(t), sandbox.Spec{Image: testenv.Image(t), Network: sandbox.NetworkOutbound, Egress: []string{"service.example:80"}})
	if err != nil {
		t.Fatal(err)
	}
	original := raw.(*Sandbox)
	list, err := original.Fork(bounded(t), 2)
	if err != nil {
		t.Fatal(err)
	}
	const card = "cat /sys/class/net/eth0/address; cat /etc/resolv.conf"
	seen := map[string]bool{}
	for _, b := range append(list, original) {
		addresses := sh(t, b, card)
		if seen[addresses] {
			t.Errorf("%q occurs twice", addresses)
		}
		seen[addresses] = true
		reach(t, b, map[string]string{"http://service.example/": "hello service.example", "http://203.0.113.8/": "refused"})
	}
}

// BenchmarkFork is the way to one copy that has run a program, and where the time goes: the branch, with the
// programs standing still; the start of a cell; its guest's first answer, after which its programs go on; a program.
func BenchmarkFork(b *testing.B) {
	available(b)
	d, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	ctx := b.Context()
	raw, err := d.Create(ctx, sandbox.Spec{Image: testenv.Image(b)})
	if err != nil {
		b.Fatal(err)
	}
	original := raw.(*Sandbox)
	run := func(s sandbox.Sandbox) {
		if exit, err := s.Exec(ctx, sandbox.Cmd{Args: []string{"true"}}); err != nil || !exit.Success() {
			b.Fatal(exit, err)
		}
	}
	run(original)
	names := []string{"branch-ms", "cell-ms", "answer-ms", "exec-ms", "warm-exec-ms"}
	parts := make([]time.Duration, len(names))
	for b.Loop() {
		begin := time.Now()
		lap := func(i int) {
			now := time.Now()
			parts[i] += now.Sub(begin)
			begin = now
		}
		branch, err := original.branch(ctx, "fork", 1)
		if err != nil {
			b.Fatal(err)
		}
		lap(0)
		var copied sandbox.Sandbox
		_, err = d.keeper.Start(ctx, "fork", func(ctx context.Context, owned *lease.Lease) (sandbox.Sandbox, error) {
			c, err := original.original(branch).start(ctx, "fork", owned, nil)
			if err != nil {
				return nil, err
			}
			lap(1)
			copied = c
			return c, c.wake(ctx)
		})
		if err != nil {
			b.Fatal(err)
		}
		lap(2)
		run(copied)
		lap(3)
		run(copied)
		lap(4)
		b.StopTimer()
		if err := errors.Join(branch.Close(), copied.Close()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	for i, name := range names {
		b.ReportMetric(float64(parts[i])/float64(time.Millisecond)/float64(b.N), name)
	}
}
