package gvisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

// parseVersion reads the output of runsc --version.
func parseVersion(out []byte) (string, error) {
	v, ok := strings.CutPrefix(firstLine(out), "runsc version ")
	if !ok || v == "" || strings.ContainsAny(v, " \t") {
		return "", fmt.Errorf("%q is not how runsc answers", firstLine(out))
	}
	return v, nil
}

// parseLog reads runsc's log of errors, JSON objects one after another, and returns the messages in
// one line. Whatever is not of that form is taken as it is: the log is empty unless runsc failed.
func parseLog(log []byte) string {
	var said []string
	for dec := json.NewDecoder(bytes.NewReader(log)); ; {
		var entry struct {
			Msg string `json:"msg"`
		}
		at := dec.InputOffset()
		if err := dec.Decode(&entry); err != nil {
			if rest := bytes.TrimSpace(log[at:]); len(rest) > 0 {
				said = append(said, string(rest))
			}
			break
		}
		if entry.Msg != "" {
			said = append(said, entry.Msg)
		}
	}
	return strings.Join(strings.Fields(strings.Join(said, "; ")), " ")
}

// parseStats reads the output of runsc events --stats.
func parseStats(out []byte) (sandbox.Stats, error) {
	var event struct {
		Type string `json:"type"`
		Data struct {
			CPU struct {
				Usage struct {
					Total uint64 `json:"total"`
				} `json:"usage"`
			} `json:"cpu"`
			Memory struct {
				Usage struct {
					Usage uint64 `json:"usage"`
				} `json:"usage"`
			} `json:"memory"`
			Pids struct {
				Current uint64 `json:"current"`
			} `json:"pids"`
		} `json:"data"`
	}
	if err := json.Unmarshal(out, &event); err != nil {
		return sandbox.Stats{}, fmt.Errorf("read statistics: %w", err)
	}
	if event.Type != "stats" {
		return sandbox.Stats{}, fmt.Errorf("read statistics: an event of type %q", event.Type)
	}
	const most = 1 << 62
	memory, cpu, procs := event.Data.Memory.Usage.Usage, event.Data.CPU.Usage.Total, event.Data.Pids.Current
	if memory > most || cpu > most || procs > 1<<30 {
		return sandbox.Stats{}, errors.New("read statistics: numbers out of range")
	}
	return sandbox.Stats{MemoryBytes: int64(memory), CPUNanos: int64(cpu), Processes: int(procs)}, nil
}

// parsePanic finds the reason in a panic report of the sentry; empty if there is none.
func parsePanic(report []byte) string {
	for line := range bytes.Lines(report) {
		for _, mark := range []string{"panic: ", "fatal error: ", "runtime: "} {
			if bytes.HasPrefix(line, []byte(mark)) {
				return strings.ToValidUTF8(firstLine(line[:min(len(line), 300)]), "?")
			}
		}
	}
	return ""
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
	return string(bytes.TrimSpace(line))
}
