package probe

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"github.com/aethervm/aether/sandbox"
)

const (
	// answerLimit is how long an answer may take before it counts as none. The slowest system, under
	// software emulation, needs some tens of milliseconds at rest.
	answerLimit = 10 * time.Second
	// askPause keeps the watching itself from being a load.
	askPause = 20 * time.Millisecond
)

// Latency sums up how long answers took, in milliseconds. All are counted, none trimmed.
type Latency struct {
	Count  int       `json:"count"`
	Failed int       `json:"failed"`
	P50    float64   `json:"p50_ms"`
	Max    float64   `json:"max_ms"`
	All    []float64 `json:"all_ms,omitempty"`
	// Error is the first that occurred.
	Error string `json:"error,omitempty"`
}

// ask waits for one answer.
type ask func(ctx context.Context) error

// askSandbox runs `true` in a sandbox.
func askSandbox(sb sandbox.Sandbox) ask {
	return func(ctx context.Context) error {
		exit, err := sb.Exec(ctx, sandbox.Cmd{Args: []string{"true"}, Timeout: answerLimit})
		if err == nil && !exit.Success() {
			err = fmt.Errorf("true ended with %v", exit)
		}
		return err
	}
}

// askHost starts a process on the host.
func askHost(ctx context.Context) error { return exec.CommandContext(ctx, "true").Run() }

// watchFor asks n times, within limit.
func watchFor(ctx context.Context, n int, limit time.Duration, a ask) (Latency, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var l Latency
	for range n {
		l.once(ctx, a)
		if l.Failed > 0 {
			return l.sum(), errors.New(l.Error)
		}
	}
	return l.sum(), nil
}

// watch asks again and again until the function that it returns is called. That waits for the last
// answer.
func watch(ctx context.Context, a ask) (stop func() Latency) {
	ended := make(chan struct{})
	done := make(chan Latency, 1)
	go func() {
		var l Latency
		for ctx.Err() == nil {
			l.once(ctx, a)
			select {
			case <-ended:
				done <- l.sum()
				return
			case <-time.After(askPause):
			}
		}
		done <- l.sum()
	}()
	return func() Latency {
		close(ended)
		return <-done
	}
}

// once asks one time and takes down how long it took.
func (l *Latency) once(ctx context.Context, a ask) {
	limited, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	start := time.Now()
	err := a(limited)
	l.All = append(l.All, float64(time.Since(start).Microseconds())/1000)
	if err == nil {
		return
	}
	l.Failed++
	if l.Error == "" {
		l.Error = err.Error()
	}
}

func (l *Latency) sum() Latency {
	l.Count = len(l.All)
	if l.Count > 0 {
		sorted := slices.Sorted(slices.Values(l.All))
		l.P50, l.Max = sorted[(l.Count-1)/2], sorted[l.Count-1]
	}
	return *l
}
