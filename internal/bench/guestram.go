package bench

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// guestPSS returns how much of a process's proportional set size, in bytes, is the RAM of its guest,
// which is size bytes. known is false if no mapping of the process is of that size.
func guestPSS(pid int, size int64) (pss int64, known bool, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = f.Close() }()
	return findRAM(f, size)
}

// mappingRun is a row of adjacent mappings of the same thing: the kernel splits a mapping where advice that
// was given for a part of it (madvise) makes the parts differ.
type mappingRun struct {
	start, end uint64
	what       string // permissions, device, inode and name
	pss        int64
}

// findRAM looks through the text of a smaps file for writable memory of exactly size bytes.
// https://docs.kernel.org/filesystems/proc.html
func findRAM(r io.Reader, size int64) (pss int64, known bool, err error) {
	var current mappingRun
	found := func() bool {
		return current.end-current.start == uint64(size) && strings.HasPrefix(current.what, "rw-")
	}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			n, err := strconv.ParseInt(kib, 10, 64)
			if err != nil {
				return 0, false, fmt.Errorf("read smaps: %q: %w", line, err)
			}
			current.pss += n << 10
			continue
		}
		next, ok := parseMapping(line)
		if !ok {
			continue
		}
		if next.start == current.end && next.what == current.what {
			current.end = next.end
			continue
		}
		if found() {
			return current.pss, true, nil
		}
		current = next
	}
	if err := lines.Err(); err != nil {
		return 0, false, fmt.Errorf("read smaps: %w", err)
	}
	return current.pss, found(), nil
}

// parseMapping reads the first line of a mapping: "START-END PERMS OFFSET DEVICE INODE  NAME".
func parseMapping(line string) (m mappingRun, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return m, false
	}
	from, to, ok := strings.Cut(fields[0], "-")
	if !ok {
		return m, false
	}
	var errStart, errEnd error
	m.start, errStart = strconv.ParseUint(from, 16, 64)
	m.end, errEnd = strconv.ParseUint(to, 16, 64)
	m.what = fields[1] + " " + strings.Join(fields[3:], " ")
	return m, errStart == nil && errEnd == nil
}
