package host

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// maxProcFile bounds what is read of a file of "Key: value kB" lines. Real ones have 2 KiB.
const maxProcFile = 1 << 20

// Memory holds the lines of a file like /proc/meminfo: sizes in bytes by the kernel's own name.
type Memory map[string]int64

// Meminfo reads /proc/meminfo.
func Meminfo() (Memory, error) { return readMemory("/proc/meminfo") }

// PSS is the proportional set size of a process in bytes: its private memory, and its share of what
// it shares with others. Sums of PSS count every page once.
func PSS(pid int) (int64, error) {
	name := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	m, err := readMemory(name)
	if err != nil {
		return 0, err
	}
	pss, ok := m["Pss"]
	if !ok { // a kernel thread, or a process that is ending
		return 0, fmt.Errorf("%s: no Pss", name)
	}
	return pss, nil
}

func readMemory(name string) (Memory, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	m, err := ParseMemory(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return m, nil
}

// ParseMemory reads lines of the form "Key: 12 kB"; lines without a number, or with one that is no
// size, are left out. At most 1 MiB is read: the text may come from a sandbox.
func ParseMemory(r io.Reader) (Memory, error) {
	m := Memory{}
	lines := bufio.NewScanner(io.LimitReader(r, maxProcFile))
	for lines.Scan() {
		key, rest, ok := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(rest)
		if !ok || len(fields) != 2 || fields[1] != "kB" {
			continue
		}
		n, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil || n < 0 || n > 1<<52 {
			continue
		}
		m[strings.TrimSpace(key)] = n << 10
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return m, nil
}

// fields splits "key<sep>value" lines and returns the first value of each key.
func fields(text []byte, sep string) map[string]string {
	m := map[string]string{}
	for line := range bytes.Lines(text) {
		key, value, ok := strings.Cut(string(line), sep)
		key = strings.TrimSpace(key)
		if _, had := m[key]; ok && !had {
			m[key] = strings.TrimSpace(value)
		}
	}
	return m
}
