package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/aethervm/aether/internal/smaps"
)

// memory is what copies take of the host, in bytes, by what it is: the proportional set size of their processes, apart
// from their guests' RAM; that RAM; this process; what no process has mapped; and the kernel's own, by its fields of
// /proc/meminfo. KernelStack is not among those: stacks are part of VmallocUsed.
type memory map[string]int64

func kernelFields() []string {
	return []string{"Slab", "PageTables", "SecPageTables", "Percpu", "VmallocUsed"}
}

const ownPart = "process: "

// readMemory reads what processes, which have up to so many guests with so many bytes of RAM each, and this process take.
func readMemory(pids []int, ram int64, guests int) (memory, error) {
	info, err := fields("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	m := memory{}
	for _, f := range kernelFields() {
		m[f] = info[f]
	}
	m["available"] = info["MemAvailable"]
	if err := m.addSlabs(); err != nil {
		return nil, err
	}
	var shared int64
	for _, pid := range pids {
		parts, shmem, err := processMemory(pid, ram, guests)
		if err != nil {
			return nil, err
		}
		for name, n := range parts {
			m[name] += n
		}
		shared += shmem
	}
	self, err := fields("/proc/self/smaps_rollup")
	if err != nil {
		return nil, err
	}
	m["owner"] = self["Pss"]
	m["unmapped"] = info["Shmem"] - shared - self["Pss_Shmem"]
	return m, nil
}

// processMemory is the proportional set size of a process by the names of its mappings, and the part of it that is shared
// memory.
func processMemory(pid int, ram int64, guests int) (parts memory, shmem int64, err error) {
	guest, known, err := smaps.GuestPSS(pid, ram, guests)
	if err != nil || !known {
		return nil, 0, fmt.Errorf("the RAM of the guests of process %d is not found: %w", pid, err)
	}
	rollup, err := fields(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return nil, 0, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	parts = memory{"RAM": guest}
	var named, kib int64
	name := ""
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) >= 5 && strings.Contains(words[0], "-"):
			name = mappingName(words)
		case len(words) == 3 && words[0] == "Pss:" && name != "":
			if kib, err = strconv.ParseInt(words[1], 10, 64); err != nil {
				return nil, 0, err
			}
			parts[ownPart+name] += kib << 10
			named += kib << 10
		}
	}
	parts[ownPart+"other"] = rollup["Pss"] - guest - named
	return parts, rollup["Pss_Shmem"], lines.Err()
}

// mappingName tells what a mapping is by the first line of its entry in smaps; empty if it has no name of its own.
func mappingName(words []string) string {
	rest := strings.Join(words[5:], " ")
	switch {
	case strings.Contains(rest, "aether-cell") || strings.HasSuffix(rest, "/scale"):
		return "program " + words[1]
	case strings.HasPrefix(rest, "[anon: Go"):
		return strings.Trim(rest, "[]")
	}
	return ""
}

// fields reads a file of lines "Name: N kB", in bytes.
func fields(name string) (memory, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	m := memory{}
	for line := range strings.SplitSeq(string(content), "\n") {
		key, rest, ok := strings.Cut(line, ":")
		words := strings.Fields(rest)
		if !ok || len(words) != 2 || words[1] != "kB" {
			continue
		}
		n, err := strconv.ParseInt(words[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read %s: %q: %w", name, line, err)
		}
		m[key] = n << 10
	}
	return m, nil
}

// slabPart is how the kernel's slabs are called, which are parts of Slab.
const slabPart = "slab "

// addSlabs adds what objects take in each of the kernel's slabs. Only root can read that.
func (m memory) addSlabs() error {
	content, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(string(content), "\n") {
		words := strings.Fields(line)
		if len(words) < 4 || strings.HasPrefix(line, "#") {
			continue
		}
		count, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			continue // the line of the version
		}
		size, err := strconv.ParseInt(words[3], 10, 64)
		if err != nil {
			return err
		}
		m[slabPart+words[0]] = count * size
	}
	return nil
}

// kernel is the part that is the kernel's, or no process's, and thus that of all of this host.
func (m memory) kernel() (n int64) {
	for _, f := range append(kernelFields(), "unmapped") {
		n += m[f]
	}
	return n
}

// total is all of it but what is another view of the same.
func (m memory) total() (n int64) {
	for name, v := range m {
		if name != "available" && !strings.HasPrefix(name, slabPart) {
			n += v
		}
	}
	return n
}
