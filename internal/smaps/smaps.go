// Package smaps tells which part of a process's memory is the RAM of its guest, by the process's
// /proc/PID/smaps: https://docs.kernel.org/filesystems/proc.html
package smaps

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// GuestPSS returns how much of a process's proportional set size, in bytes, is the RAM of its guests, of which there are no more than
// that many, each of size bytes; see FindRAM.
func GuestPSS(pid int, size int64, guests int) (pss int64, known bool, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = f.Close() }()
	return FindRAM(f, size, guests)
}

// mapping is one of a process.
type mapping struct {
	start, end uint64
	pss        int64 // bytes
}

// FindRAM looks through the text of a smaps file for size bytes of writable memory: one mapping, or several that
// adjoin each other, as where a part comes from another file or was given other advice. It returns their
// proportional set size in bytes, together that of the first guests of them, and known false if there is no such memory.
func FindRAM(r io.Reader, size int64, guests int) (pss int64, known bool, err error) {
	var run []mapping // of adjoining writable mappings
	inRun := false    // whether the lines that follow are about the last of run
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			n, err := strconv.ParseInt(kib, 10, 64)
			if err != nil {
				return 0, false, fmt.Errorf("read smaps: %q: %w", line, err)
			}
			if inRun {
				run[len(run)-1].pss += n << 10
			}
			continue
		}
		next, writable, ok := parseMapping(line)
		if !ok {
			continue
		}
		if found, ok := endsWith(run, uint64(size)); ok {
			pss, known, run = pss+found, true, run[:0]
			if guests--; guests <= 0 {
				return pss, true, nil
			}
		}
		if !writable || len(run) > 0 && run[len(run)-1].end != next.start {
			run = run[:0]
		}
		if inRun = writable; writable {
			run = append(run, next)
		}
	}
	if err := lines.Err(); err != nil {
		return 0, false, fmt.Errorf("read smaps: %w", err)
	}
	if found, ok := endsWith(run, uint64(size)); ok {
		pss, known = pss+found, true
	}
	return pss, known, nil
}

// endsWith tells whether the last mappings of a run are of size bytes together.
func endsWith(run []mapping, size uint64) (pss int64, ok bool) {
	for i := len(run) - 1; i >= 0; i-- {
		pss += run[i].pss
		if sum := run[len(run)-1].end - run[i].start; sum >= size {
			return pss, sum == size
		}
	}
	return 0, false
}

// parseMapping reads the first line of a mapping: "START-END PERMS OFFSET DEVICE INODE  NAME".
func parseMapping(line string) (m mapping, writable, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return m, false, false
	}
	from, to, ok := strings.Cut(fields[0], "-")
	if !ok {
		return m, false, false
	}
	var errStart, errEnd error
	m.start, errStart = strconv.ParseUint(from, 16, 64)
	m.end, errEnd = strconv.ParseUint(to, 16, 64)
	return m, strings.HasPrefix(fields[1], "rw-"), errStart == nil && errEnd == nil && m.start < m.end
}
