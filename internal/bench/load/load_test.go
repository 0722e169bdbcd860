package load

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/driver/all/drivertest"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// Set by `make load`: how long, how many, on which system, and where the raw result goes.
const (
	durationEnv = "AETHER_LOAD"
	sessionsEnv = "AETHER_LOAD_SESSIONS"
	systemEnv   = "AETHER_LOAD_SYSTEM"
	outEnv      = "AETHER_LOAD_OUT"
)

// TestLoad is a small run on a real system, or as large a one as the environment says.
func TestLoad(t *testing.T) {
	cfg := Config{
		Sessions: 16, Tenants: 2, Duration: 20 * time.Second, Ramp: 4 * time.Second, Think: time.Second,
		MemoryMiB: sandbox.MinMemoryMiB, Every: time.Second, Log: t.Logf,
	}
	limits := Limits{Growth: 16 << 20}
	if long := os.Getenv(durationEnv); long != "" {
		var err error
		if cfg.Duration, err = time.ParseDuration(long); err != nil {
			t.Fatalf("%s: %v", durationEnv, err)
		}
		// An agent's model takes a while to say what is next.
		cfg.Sessions, cfg.Ramp, cfg.Think, cfg.Every = 200, cfg.Duration/4, 30*time.Second, 5*time.Second
		limits.Own = 5 * time.Millisecond
	}
	if n := os.Getenv(sessionsEnv); n != "" {
		var err error
		if cfg.Sessions, err = strconv.Atoi(n); err != nil {
			t.Fatalf("%s: %v", sessionsEnv, err)
		}
	}
	cfg.Driver, cfg.Image = realDriver(t), testenv.Image(t)
	cfg.StateDir = filepath.Join(t.TempDir(), "state")
	if out := os.Getenv(outEnv); out != "" {
		if err := os.MkdirAll(out, 0o755); err != nil {
			t.Fatal(err)
		}
		cfg.Operations, cfg.Memory = file(t, out, "operations.csv"), file(t, out, "memory.csv")
	}
	rep, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", text)
	if out := os.Getenv(outEnv); out != "" {
		if err := os.WriteFile(filepath.Join(out, "report.json"), append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := rep.Check(limits); err != nil {
		t.Error(err)
	}
}

func realDriver(t *testing.T) sandbox.Driver {
	t.Helper()
	system := os.Getenv(systemEnv)
	if system == "" {
		system = "gvisor"
	}
	return drivertest.Real(t, system, strings.ToUpper(system))
}

func file(t *testing.T, dir, name string) io.Writer {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	t.Cleanup(func() {
		if err := w.Flush(); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func TestSecretsOfOthersAreFound(t *testing.T) {
	r := &run{Config: Config{Log: t.Logf}}
	a, b := newAgent(r, 1, 0), newAgent(r, 12, 1)
	a.search("its own", "x "+a.secret+" y "+a.secret)
	if r.leaks.Load() != 0 || len(r.faults) != 0 {
		t.Errorf("one's own secret is no leak: %q", r.faults)
	}
	a.search("a read", a.secret+" "+b.secret)
	if r.leaks.Load() != 1 || len(r.faults) != 1 || !strings.Contains(r.faults[0], "agent 1 got the secret of agent 12 by a read") {
		t.Errorf("%d leaks, %q", r.leaks.Load(), r.faults)
	}
}

func TestCheck(t *testing.T) {
	good := Report{Tried: 1, Own: Times{P99: 4.9}, Memory: []MemoryAt{{HeapLiveMiB: 10}, {HeapLiveMiB: 12}}}
	limits := Limits{Own: 5 * time.Millisecond, Growth: 4 << 20}
	if err := good.Check(limits); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Report){
		"fault":    func(r *Report) { r.Faults = []string{"fault"} },
		"leaks":    func(r *Report) { r.Leaks = 1 },
		"nobody":   func(r *Report) { r.Tried = 0 },
		"p99":      func(r *Report) { r.Own.P99 = 5.1 },
		"grown":    func(r *Report) { r.Memory = []MemoryAt{{HeapLiveMiB: 10}, {HeapLiveMiB: 15}} },
		"left":     func(r *Report) { r.Left = []string{"1 sandbox"} },
		"3 more f": func(r *Report) { r.More = 3 },
	} {
		bad := good
		spoil(&bad)
		if err := bad.Check(limits); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTimes(t *testing.T) {
	var d []time.Duration
	for i := range 200 {
		d = append(d, time.Duration(200-i)*time.Millisecond)
	}
	if got := times(d, 3); got != (Times{N: 200, Failed: 3, P50: 100, P99: 198, Max: 200}) {
		t.Errorf("%+v", got)
	}
	if got := times(nil, 0); got != (Times{}) {
		t.Errorf("%+v", got)
	}
}
