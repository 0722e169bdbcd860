package bench

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/aethervm/aether/internal/head"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

//go:embed guest/workload.py
var workloadPy string

//go:embed guest/fresh.py
var freshPy string

const (
	workDir = "/var/tmp/aether-bench"
	// tickSize is the length of one line of the ticks file.
	tickSize = 16
	// answerLimit bounds how long a program may take to answer.
	answerLimit = 30 * time.Second
)

// workload is the Python program of guest/workload.py, running in a sandbox.
type workload struct {
	sb sandbox.Sandbox
	// token is a random number that exists only in the program's memory.
	token string
}

// answer is what the program says when it is asked.
type answer struct {
	Nonce  string `json:"nonce"`
	Token  string `json:"token"`
	Tick   int64  `json:"tick"`
	Intact bool   `json:"intact"`
	draws
	PRNG []string `json:"prng"`
}

// draws are random numbers from the kernel.
type draws struct {
	GetRandom []string `json:"getrandom"`
	UUID4     []string `json:"uuid4"`
}

// startWorkload starts the program in the background, in a session of its own and without any of
// the exec's streams: what is saved with a sandbox must not hang on its host.
func startWorkload(ctx context.Context, sb sandbox.Sandbox) (*workload, error) {
	if _, err := run(ctx, sb, "mkdir", "-p", workDir); err != nil {
		return nil, err
	}
	program := workDir + "/workload.py"
	if err := sb.WriteFile(ctx, program, strings.NewReader(workloadPy), 0o644); err != nil {
		return nil, fmt.Errorf("write the workload: %w", err)
	}
	if _, err := run(ctx, sb, "sh", "-c", "setsid python3 "+program+" "+workDir+" </dev/null >/dev/null 2>&1 &"); err != nil {
		return nil, fmt.Errorf("start the workload: %w", err)
	}
	w := &workload{sb: sb}
	a, err := w.ask(ctx)
	if err != nil {
		return nil, err
	}
	w.token = a.Token
	return w, nil
}

// ask makes the program answer.
func (w *workload) ask(ctx context.Context) (answer, error) {
	nonce := lease.NewID()
	if err := w.sb.WriteFile(ctx, workDir+"/ask", strings.NewReader(nonce), 0o644); err != nil {
		return answer{}, fmt.Errorf("ask the workload: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("the workload did not answer within %v", answerLimit))
	defer cancel()
	for {
		content, err := readAll(ctx, w.sb, workDir+"/answer")
		var a answer
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil && ctx.Err() != nil:
			return a, context.Cause(ctx)
		case err != nil:
			return a, fmt.Errorf("read the workload's answer: %w", err)
		default:
			if err := json.Unmarshal(content, &a); err != nil {
				return a, fmt.Errorf("read the workload's answer: %w", err)
			}
			if a.Nonce == nonce {
				return a, nil
			}
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return a, err
		}
	}
}

// ticks is how many times the program has gone round.
func (w *workload) ticks(ctx context.Context) (int64, error) {
	info, err := w.sb.Stat(ctx, workDir+"/ticks")
	if err != nil {
		return 0, fmt.Errorf("count the workload's ticks: %w", err)
	}
	return info.Size / tickSize, nil
}

// readAll reads a file of the sandbox, up to the limit of what the host will hold.
func readAll(ctx context.Context, sb sandbox.Sandbox, name string) ([]byte, error) {
	b := head.New(maxKept)
	err := sb.ReadFile(ctx, name, b)
	return b.Bytes(), err
}

// fresh draws random numbers in a new process.
func fresh(ctx context.Context, sb sandbox.Sandbox) (draws, error) {
	out, err := runCmd(ctx, sb, sandbox.Cmd{Args: []string{"python3", "-"}, Stdin: io.Reader(strings.NewReader(freshPy))})
	if err != nil {
		return draws{}, err
	}
	var d draws
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		return d, fmt.Errorf("read random numbers: %w", err)
	}
	return d, nil
}

// clockOffset execs date and bounds how far the sandbox's wall clock is off the host's: 0 if the
// time it says lies between the request and the reply.
func clockOffset(ctx context.Context, sb sandbox.Sandbox) (time.Duration, error) {
	before := time.Now()
	out, err := run(ctx, sb, "date", "+%s.%N")
	after := time.Now()
	if err != nil {
		return 0, err
	}
	guest, err := parseUnix(strings.TrimSpace(out))
	if err != nil {
		return 0, err
	}
	switch {
	case guest.Before(before):
		return guest.Sub(before), nil
	case guest.After(after):
		return guest.Sub(after), nil
	}
	return 0, nil
}

// parseUnix reads seconds and nanoseconds since the epoch, as `date +%s.%N` prints them.
func parseUnix(s string) (time.Time, error) {
	sec, frac, _ := strings.Cut(s, ".")
	whole, err := strconv.ParseInt(sec, 10, 40)
	if err != nil {
		return time.Time{}, fmt.Errorf("%.40q is no time", s)
	}
	nanos, err := strconv.ParseInt(frac, 10, 64)
	if err != nil || len(frac) != 9 || nanos < 0 {
		return time.Time{}, fmt.Errorf("%.40q is no time", s)
	}
	return time.Unix(whole, nanos), nil
}
