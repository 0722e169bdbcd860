// Package bomb is test load: it does to a sandbox what a program gone wild would do, within bounds
// of size and time, so that the judge can see whether anybody but the sandbox notices.
//
// It runs as `aether-agent bomb` inside a sandbox whose limits have been checked before.
package bomb

import (
	"fmt"
	"io"
	"strconv"
	"time"
)

// Kind of a bomb: the first argument of the subcommand. The second is the most processes or MiB,
// the third for how long, as a Go duration.
const (
	Processes = "processes" // every process makes more of itself until the limit, and goes on trying
	Memory    = "memory"    // takes and touches memory until the limit
)

// Bounds of what the subcommand accepts, whoever calls it.
const (
	MaxProcesses = 4096
	MaxMiB       = 4096
	MaxTime      = 30 * time.Second
)

const usage = "usage: aether-agent bomb processes|memory MAX DURATION"

// Main is the bomb subcommand. It says on stdout how far it got.
func Main(args []string, stdout, stderr io.Writer) int {
	kind, limit, length, err := parse(args)
	if err == nil {
		switch kind {
		case Processes:
			err = processes(limit, length, stdout)
		case Memory:
			err = memory(limit, length, stdout)
		}
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "bomb:", err)
		return 1
	}
	return 0
}

func parse(args []string) (kind string, limit int, length time.Duration, err error) {
	if len(args) != 3 {
		return "", 0, 0, fmt.Errorf("%s", usage)
	}
	kind = args[0]
	most := map[string]int{Processes: MaxProcesses, Memory: MaxMiB}[kind]
	if most == 0 {
		return "", 0, 0, fmt.Errorf("unknown kind %q; %s", kind, usage)
	}
	if limit, err = strconv.Atoi(args[1]); err != nil || limit < 1 || limit > most {
		return "", 0, 0, fmt.Errorf("%q is not a number from 1 to %d", args[1], most)
	}
	if length, err = time.ParseDuration(args[2]); err != nil || length <= 0 || length > MaxTime {
		return "", 0, 0, fmt.Errorf("%q is not a duration up to %v", args[2], MaxTime)
	}
	return kind, limit, length, nil
}
