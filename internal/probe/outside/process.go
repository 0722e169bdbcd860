package outside

import (
	"fmt"
	"os"
	"strings"
)

// process is a process of the host.
type process struct {
	pid    int
	status map[string]string // /proc/PID/status
}

func open(pid int) (*process, error) {
	p := &process{pid: pid}
	text, err := os.ReadFile(p.path("status"))
	if err != nil {
		return nil, err
	}
	p.status = parseStatus(string(text))
	return p, nil
}

func (p *process) path(name string) string { return fmt.Sprintf("/proc/%d/%s", p.pid, name) }

func (p *process) field(key string) (string, error) {
	value, ok := p.status[key]
	if !ok {
		return "", fmt.Errorf("%s has no %s", p.path("status"), key)
	}
	return value, nil
}

func parseStatus(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			m[key] = strings.TrimSpace(value)
		}
	}
	return m
}
