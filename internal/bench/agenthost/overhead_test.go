package agenthost

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/driver/all/drivertest"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// overheadOutEnv is a directory for the raw samples, a file a system.
const overheadOutEnv = "AETHER_OVERHEAD_OUT"

// timed is a driver that knows how long the last exec took.
type timed struct {
	sandbox.Driver
	last atomic.Int64 // nanoseconds
}

func (d *timed) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	sb, err := d.Driver.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	return timedSandbox{sb, d}, nil
}

type timedSandbox struct {
	sandbox.Sandbox
	d *timed
}

func (s timedSandbox) Exec(ctx context.Context, cmd sandbox.Cmd) (sandbox.Exit, error) {
	start := time.Now()
	exit, err := s.Sandbox.Exec(ctx, cmd)
	s.d.last.Store(int64(time.Since(start)))
	return exit, err
}

// acceptEvents is an Accept header whose weights are more than package mcp looks at itself, so that the SDK answers, with a
// stream of events, as it does requests for progress.
const acceptEvents = "application/json;q=0.9, text/event-stream;q=1"

// BenchmarkOverhead runs `true` in a sandbox directly by the driver, by the runtime, and over MCP through pipes, through
// HTTP in the revision before, in the newest with a stream of events for each answer, and in that as it is, in an order
// that changes. What MCP adds is the time of its call without that of the driver's exec in it, so that what the system
// does with the program is no part of it.
func BenchmarkOverhead(b *testing.B) {
	b.Run("memory", func(b *testing.B) {
		overhead(b, runtimetest.New("docker"), sandbox.Image{Digest: fmt.Sprintf("sha256:%064d", 0), Rootfs: "/nowhere"})
	})
	for system, need := range map[string]string{"gvisor": "GVISOR", "docker": "DOCKER"} {
		b.Run(system, func(b *testing.B) {
			overhead(b, drivertest.Real(b, system, need), testenv.Image(b))
		})
	}
}

func overhead(b *testing.B, under sandbox.Driver, img sandbox.Image) {
	d := &timed{Driver: under}
	host, err := Open(b.Context(), Config{Driver: d, Image: img, StateDir: filepath.Join(b.TempDir(), "state")})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := host.Close(); err != nil {
			b.Error(err)
		}
	}()
	_, token, err := host.Tenant(b.Context(), "bench", runtime.Budget{})
	if err != nil {
		b.Fatal(err)
	}
	pipe, err := host.Pipe(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = pipe.Close() }()
	web, err := host.Connect(b.Context(), token, "bench")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = web.Close() }()
	events, err := host.connect(b.Context(), &withHeaders{token: token, session: "events", accept: acceptEvents})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = events.Close() }()
	old, err := host.connect(b.Context(), &withHeaders{token: token, session: "old", revision: "2025-11-25"})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = old.Close() }()
	local, err := host.Runtime.Local(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	session, err := host.Runtime.OpenSession(b.Context(), local.ID, runtime.SessionSpec{})
	if err != nil {
		b.Fatal(err)
	}
	spec, err := sandbox.Spec{Image: img}.WithDefaults()
	if err != nil {
		b.Fatal(err)
	}
	direct, err := d.Create(b.Context(), spec)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := direct.Close(); err != nil {
			b.Error(err)
		}
	}()
	inRuntime, err := session.Create(b.Context(), runtime.CreateRequest{})
	if err != nil {
		b.Fatal(err)
	}
	over := func(c *Client) func() error {
		box, err := Call[runtime.SandboxInfo](b.Context(), c, "create", nil)
		if err != nil {
			b.Fatal(err)
		}
		return func() error {
			_, err := c.Raw(b.Context(), "run", Args{"sandbox": box.ID, "command": "true"})
			return err
		}
	}
	ways := []struct {
		name string
		run  func() error
	}{
		{"driver", func() error {
			_, err := direct.Exec(b.Context(), sandbox.Cmd{Args: []string{"/bin/sh", "-c", "true"}})
			return err
		}},
		{"runtime", func() error {
			_, err := session.Run(b.Context(), runtime.RunRequest{Sandbox: inRuntime.ID, Shell: "true"})
			return err
		}},
		{"pipe", over(pipe)},
		{"http-2025-11-25", over(old)},
		{"http-events", over(events)},
		{"http", over(web)},
	}
	total, added := make([][]time.Duration, len(ways)), make([][]time.Duration, len(ways))
	var raw strings.Builder
	raw.WriteString("round,way,total_us,exec_us\n")
	order := rand.New(rand.NewPCG(1, 2)) // what comes after its like finds more in the processor's caches
	for round := 0; b.Loop(); round++ {
		for _, i := range order.Perm(len(ways)) {
			way := ways[i]
			start := time.Now()
			if err := way.run(); err != nil {
				b.Fatal(way.name, err)
			}
			all := time.Since(start)
			exec := time.Duration(d.last.Load())
			total[i], added[i] = append(total[i], all), append(added[i], all-exec)
			fmt.Fprintf(&raw, "%d,%s,%.1f,%.1f\n", round, way.name, us(all), us(exec))
		}
	}
	for i, way := range ways {
		b.ReportMetric(us(median(total[i])), way.name+"-p50-µs")
		if way.name != "driver" {
			b.ReportMetric(us(median(added[i])), way.name+"-adds-p50-µs")
		}
	}
	b.ReportMetric(0, "ns/op") // of all ways together it means nothing
	if dir := os.Getenv(overheadOutEnv); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, "overhead-"+filepath.Base(b.Name())+".csv"), []byte(raw.String()), 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[(len(d)-1)/2]
}
