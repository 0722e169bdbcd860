package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

func (s *suite) testIsolation(t *testing.T) {
	s.test(t, "SandboxesDoNotShareFiles", func(t *testing.T, d sandbox.Driver) {
		a, b := s.create(t, d), s.create(t, d)
		if a.ID() == b.ID() {
			t.Fatalf("both are called %s", a.ID())
		}
		for _, dir := range []string{"/", "/etc/", "/tmp/", "/usr/bin/", "/root/"} {
			name := dir + "aether-mark"
			a.write(t, name, "a")
			if _, err := b.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s of one sandbox is seen in another: %v", name, err)
			}
			if _, err := os.Lstat(filepath.Join(s.Image.Rootfs, name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is seen in the image: %v", name, err)
			}
		}
		a.sh(t, "rm -rf /usr/share /etc/passwd; echo changed > /etc/hostname")
		b.must(t, "test", "-s", "/etc/passwd")
		if _, err := os.Stat(filepath.Join(s.Image.Rootfs, "etc/passwd")); err != nil {
			t.Errorf("the image was changed: %v", err)
		}
	})
	s.with(t, "NoNetworkByDefault", func(t *testing.T, b *box) {
		// A server of the host that must be out of reach, on whatever address the host has.
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		for _, addr := range addrs {
			ip, ok := addr.(*net.IPNet)
			if !ok || ip.IP.IsLinkLocalUnicast() {
				continue
			}
			script := fmt.Sprintf("import socket,sys\ntry: socket.create_connection(('%s',%d),2)\nexcept OSError as e: sys.exit(0)\nsys.exit(9)", ip.IP, port)
			if r := b.run(t, "python3", "-c", script); r.Code != 0 {
				t.Errorf("connecting to %s on the host: %v", ip.IP, r.Exit)
			}
		}
		if got := b.sh(t, "ls /sys/class/net 2>/dev/null || tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"); got != "lo" {
			t.Errorf("interfaces: %q, want lo only", got)
		}
		loopback := "import socket\ns=socket.create_server(('127.0.0.1',0))\nc=socket.create_connection(s.getsockname(),2)\nprint('ok')"
		if got := b.must(t, "python3", "-c", loopback); got != "ok" {
			t.Errorf("own loopback: %q", got)
		}
	})
	s.with(t, "HostProcessesAreNotSeen", func(t *testing.T, b *box) {
		if n := b.sh(t, "ls -d /proc/[0-9]* | wc -l"); len(n) > 2 {
			t.Errorf("%s processes are seen inside", n)
		}
		mark := fmt.Sprintf("%d", os.Getpid())
		if got := b.sh(t, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"); strings.Contains(got, "sandboxtest.test -test") {
			t.Errorf("the suite (pid %s) is seen inside: %q", mark, got)
		}
	})
	s.with(t, "MemoryIsBounded", func(t *testing.T, b *box) {
		// Much less than the limit works.
		b.must(t, "python3", "-c", "x = bytearray(64 << 20); print(len(x))")
	})
}

// testBombs puts load on one sandbox that exceeds its limits. The host and a sibling must hardly
// notice; what becomes of the sandbox itself is the system's choice, but it can be closed.
func (s *suite) testBombs(t *testing.T) {
	for name, script := range map[string]string{
		"Processes": "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
		"Memory":    "x = []\nwhile True: x.append(b'x' * (1 << 20))",
		"TmpFiles":  "i = 0\nwhile True:\n open('/tmp/%d' % i, 'wb').write(b'x' * (1 << 22)); i += 1",
	} {
		s.test(t, name, func(t *testing.T, d sandbox.Driver) {
			bombed, sibling := s.create(t, d), s.create(t, d)
			freeBefore := available(t)

			var wg sync.WaitGroup
			wg.Go(func() {
				// Whatever comes of it: a limit hit, the sandbox dead, the time-out.
				r, err := bombed.exec(t, sandbox.Cmd{Args: []string{"python3", "-c", script}, Timeout: 5 * time.Second})
				t.Logf("the bomb ended with %v, %v", r.Exit, err)
			})
			var slowest time.Duration
			lowest := freeBefore
			for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
				r, err := sibling.exec(t, args("echo", "alive"))
				if err != nil || r.stdout != "alive\n" {
					t.Fatalf("the sibling is hurt: %q, %v, %v", r.stdout, r.Exit, err)
				}
				slowest = max(slowest, r.Duration)
				lowest = min(lowest, available(t))
			}
			wg.Wait()
			t.Logf("sibling's slowest exec: %v; host memory taken at the peak: %d MiB", slowest, (freeBefore-lowest)>>20)
			if slowest > 20*time.Second {
				t.Errorf("the sibling needed %v for an exec", slowest)
			}
			// Two sandboxes of 256 MiB with everything around them.
			if taken := (freeBefore - lowest) >> 20; taken > 1024 {
				t.Errorf("the bomb took %d MiB of the host's memory", taken)
			}
			if err := bombed.Close(); err != nil {
				t.Errorf("close the bombed sandbox: %v", err)
			}
			sibling.must(t, "true")
		})
	}
}

// available is MemAvailable of the host in bytes.
func available(t *testing.T) int64 {
	t.Helper()
	content, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	t.Fatal("no MemAvailable in /proc/meminfo")
	return 0
}

// bounded returns a context for one step.
func bounded(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), patience)
}
