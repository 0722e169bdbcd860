package cell

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/microguest"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/vmm"
)

func TestMain(m *testing.M) {
	attempts = cellAttempts
	Main()
	if os.Getpid() == 1 {
		guestMain()
	}
	if os.Getenv(ownerEnv) != "" {
		ownerMain()
	}
	if os.Getenv(faultsEnv) != "" {
		faultsMain()
	}
	if os.Getenv(churnEnv) != "" {
		churnMain()
	}
	os.Exit(m.Run())
}

// guestFile is a kernel that runs code.
func guestFile(t testing.TB, code ...[]byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(name, microguest.Kernel(code...), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func needKVM(t testing.TB) {
	t.Helper()
	s, err := kvm.Open()
	if err != nil {
		testenv.Require(t, "KVM", err.Error())
	}
	_ = s.Close()
}

const testID = "aether-celltest"

// program is what cells execute: the real one, unless the race detector is to see the cell's side too.
func program(t testing.TB) *os.File {
	t.Helper()
	if usesCgo() {
		return thisProgram()
	}
	return testenv.Cell(t)
}

// thisProgram is the test binary, whose TestMain calls Main, and which has the attempts.
var thisProgram = sync.OnceValue(func() *os.File {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		panic(err)
	}
	return f
})

func startGuest(t testing.TB, change func(*Config), code ...[]byte) *Cell {
	t.Helper()
	needKVM(t)
	cfg := Config{ID: testID, Program: program(t), Kernel: guestFile(t, code...), VCPUs: 1, MemoryMiB: 64}
	if change != nil {
		change(&cfg)
	}
	c, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if c.End() == nil {
			t.Error("a closed cell has not ended")
		}
	})
	return c
}

func waitEnd(t testing.TB, c *Cell) *EndError {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(20 * time.Second):
		t.Fatalf("the cell has not ended; console: %q", c.Console())
	}
	var e *EndError
	if err := c.End(); !errors.As(err, &e) || !errors.Is(err, ErrEnded) {
		t.Fatalf("ended with %v", err)
	}
	return e
}

func waitConsole(t testing.TB, c *Cell, text string) {
	t.Helper()
	for start := time.Now(); !strings.Contains(strings.Join(c.Console(), "\n"), text); time.Sleep(time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("no %q on the console: %q; end %v", text, c.Console(), c.End())
		}
	}
}

func TestGuestPowersOff(t *testing.T) {
	var console bytes.Buffer
	c := startGuest(t, func(cfg *Config) { cfg.Console = &console }, microguest.Say("hello\n"), microguest.PowerOff())
	e := waitEnd(t, c)
	if e.Reason != string(vmm.PoweredOff) || len(e.Console) != 1 || e.Console[0] != "hello" || console.String() != "hello\n" {
		t.Errorf("ended with %+v; console %q", e, &console)
	}
	if _, err := c.Dial(t.Context(), 1); !errors.Is(err, ErrEnded) {
		t.Errorf("dial after the end: %v", err)
	}
	if err := c.Pause(t.Context()); !errors.Is(err, ErrEnded) {
		t.Errorf("pause after the end: %v", err)
	}
	t.Logf("confinement: %+v", c.Confinement())
}

// The user-space network does without whatever the filter forbids.
func TestNetwork(t *testing.T) {
	c := startGuest(t, func(cfg *Config) {
		cfg.Network = &vmm.Network{Allow: []vmm.Rule{{Name: "good.example"}}, Denied: func(vmm.Flow) {}}
	}, microguest.Say("up\n"), microguest.Spin())
	waitConsole(t, c, "up")
	_, err := Start(t.Context(), Config{ID: testID + "-2", Program: program(t), Kernel: guestFile(t, microguest.Spin()), VCPUs: 1, MemoryMiB: 64,
		Network: &vmm.Network{Allow: []vmm.Rule{{}}}})
	if !errors.Is(err, vmm.ErrConfig) {
		t.Errorf("a rule for nothing: %v", err)
	}
}

func TestBootFails(t *testing.T) {
	needKVM(t)
	name := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(name, []byte("no kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = Start(t.Context(), Config{ID: testID, Program: program(t), Kernel: f, VCPUs: 1, MemoryMiB: 64})
	if !errors.Is(err, vmm.ErrKernel) {
		t.Errorf("no kernel: %v", err)
	}
	noLeftovers(t)
}

func TestInvalidConfigs(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no ID":       func(c *Config) { c.ID = "" },
		"path as ID":  func(c *Config) { c.ID = "../x" },
		"no program":  func(c *Config) { c.Program = nil },
		"no kernel":   func(c *Config) { c.Kernel = nil },
		"no vCPU":     func(c *Config) { c.VCPUs = 0 },
		"no memory":   func(c *Config) { c.MemoryMiB = 1 },
		"lost disk":   func(c *Config) { c.Disks = []*os.File{nil} },
		"long kernel": func(c *Config) { c.Cmdline = strings.Repeat("x", maxCmdline+1) },
	} {
		cfg := Config{ID: testID, Program: os.Stdin, Kernel: os.Stdin, VCPUs: 1, MemoryMiB: 64}
		change(&cfg)
		if _, err := Start(t.Context(), cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPause(t *testing.T) {
	loop := microguest.Say("x\n")
	back := -int32(len(loop) + 5)
	loop = binary.LittleEndian.AppendUint32(append(loop, 0xe9), uint32(back)) // jmp back
	var console safeBuffer
	c := startGuest(t, func(cfg *Config) { cfg.Console = &console }, loop)
	waitConsole(t, c, "x")
	if err := c.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	settled := func() int {
		n := -1
		for n != console.size() { // what is in the pipe
			n = console.size()
			time.Sleep(20 * time.Millisecond)
		}
		return n
	}
	before := settled()
	time.Sleep(100 * time.Millisecond)
	if after := console.size(); after != before {
		t.Errorf("a paused guest wrote %d bytes", after-before)
	}
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); console.size() == before; time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("the guest does not go on")
		}
	}
}

// A dial waits for the guest's driver, which this guest has not, and ends with its context.
func TestDialEnds(t *testing.T) {
	c := startGuest(t, nil, microguest.Spin())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Dial(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial: %v", err)
	}
	result := make(chan error)
	go func() {
		_, err := c.Dial(t.Context(), 1)
		result <- err
	}()
	time.Sleep(10 * time.Millisecond)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; !errors.Is(err, ErrEnded) {
		t.Errorf("dial of a closed cell: %v", err)
	}
}

func TestProcessKilled(t *testing.T) {
	c := startGuest(t, nil, microguest.Say("up\n"), microguest.Spin())
	waitConsole(t, c, "up")
	if err := unix.Kill(c.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e := waitEnd(t, c)
	if e.Reason != ReasonProcess || !strings.Contains(e.Detail, "killed") || len(e.Console) == 0 {
		t.Errorf("ended with %+v", e)
	}
}

func TestCancelledStarts(t *testing.T) {
	needKVM(t)
	kernel := guestFile(t, microguest.Spin())
	for delay := time.Duration(0); delay < 24*time.Millisecond; delay += 2 * time.Millisecond {
		ctx, cancel := context.WithTimeout(t.Context(), delay)
		c, err := Start(ctx, Config{ID: testID, Program: program(t), Kernel: kernel, VCPUs: 1, MemoryMiB: 64})
		cancel()
		switch {
		case err == nil:
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		case !errors.Is(err, context.DeadlineExceeded):
			t.Errorf("after %v: %v", delay, err)
		}
	}
	noLeftovers(t)
}
