package bench

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// benchText gives the counted samples in the Go benchmark format, for benchstat and its kin: one
// line a sample, the system as a sub-name.
// https://go.googlesource.com/proposal/+/master/design/14313-benchmark-format.md
func benchText(r *Results, samples []Sample) []byte {
	var b bytes.Buffer
	// A key without a value takes back what it was set to before.
	config := func(key, value string) {
		fmt.Fprintf(&b, "%s: %s\n", key, strings.Join(strings.Fields(value), " "))
	}
	config("goos", "linux")
	config("goarch", r.Host.Arch)
	config("cpu", r.Host.CPU)
	config("kernel", r.Host.Kernel)
	config("aether", r.AetherVersion)
	for _, system := range slices.Sorted(maps.Keys(r.Systems)) {
		all := seriesOf(samples, system)
		if len(all) == 0 {
			continue
		}
		fmt.Fprintln(&b)
		config("version", r.Systems[system].Version)
		config("accelerator", r.Systems[system].Accelerator)
		for _, name := range slices.Sorted(maps.Keys(all)) {
			for _, s := range all[name] {
				value, unit := s.Value, benchUnit(s.Unit)
				if s.Unit == "ms" {
					value *= 1e6
				}
				sub := "system=" + system
				if isCurve(name) {
					sub += fmt.Sprintf("/sandboxes=%d", s.Index)
				}
				fmt.Fprintf(&b, "Benchmark%s/%s 1 %s %s\n", camel(name), sub, strconv.FormatFloat(value, 'f', -1, 64), unit)
			}
		}
	}
	return b.Bytes()
}

// benchUnit is the unit's name in the benchmark format, where times are in ns.
func benchUnit(unit string) string {
	switch unit {
	case "ms":
		return "ns/op"
	case "mib":
		return "MiB"
	case "bytes":
		return "B"
	case "":
		return "value"
	}
	return unit
}

// camel makes "start.burst8" the StartBurst8 that a benchmark must be named.
func camel(name string) string {
	var b strings.Builder
	for part := range strings.FieldsFuncSeq(name, func(r rune) bool { return r == '.' || r == '_' || r == '-' }) {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}
