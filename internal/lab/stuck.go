package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/qmp"
)

// A lab that has run out of time is asked once more before it is ended: whether its processors still move
// tells a program that takes long from a machine that stands.
const (
	inquiryTime = 5 * time.Second
	inquiryGap  = time.Second
)

// monitorPair makes the two ends of QEMU's control socket.
func monitorPair() (ours *net.UnixConn, its *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the monitor's socket: %w", err)
	}
	its = os.NewFile(uintptr(fds[1]), "monitor")
	f := os.NewFile(uintptr(fds[0]), "monitor")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		_ = its.Close()
		return nil, nil, fmt.Errorf("make the monitor's socket: %w", err)
	}
	return conn.(*net.UnixConn), its, nil
}

// inquire says where the machine's processors are, at two instants. It takes the monitor: it can be
// called once.
func (m *machine) inquire() string {
	ctx, cancel := context.WithTimeout(context.Background(), inquiryTime)
	defer cancel()
	monitor, err := qmp.New(ctx, m.monitor)
	if err != nil {
		return fmt.Sprintf("QEMU does not answer: %v", err)
	}
	defer func() { _ = monitor.Close() }()
	var seen [2]string
	for i := range seen {
		if i > 0 {
			time.Sleep(inquiryGap)
		}
		var text string
		if err := monitor.Run(ctx, "human-monitor-command", map[string]string{"command-line": "info registers -a"}, &text); err != nil {
			return fmt.Sprintf("QEMU does not answer: %v", err)
		}
		seen[i] = positions(text)
	}
	return fmt.Sprintf("its processors: %s; %v later: %s", seen[0], inquiryGap, seen[1])
}

// position is the line of a processor's registers that says what it executes, with which flags, and
// whether it is halted.
var position = regexp.MustCompile(`RIP=([0-9a-f]+) RFL=([0-9a-f]+).* CPL=(\d).* HLT=(\d)`)

// positions are the processors of QEMU's "info registers -a" in short: instruction, flags, ring, halted.
func positions(registers string) string {
	var out []string
	for i, p := range position.FindAllStringSubmatch(registers, -1) {
		where := fmt.Sprintf("CPU %d at %s, flags %s, ring %s", i, p[1], p[2], p[3])
		if p[4] == "1" {
			where += ", halted"
		}
		out = append(out, where)
	}
	if out == nil {
		return "unknown"
	}
	return strings.Join(out, ", ")
}
