package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

type stageTook struct {
	Stage sandbox.TemplateStage `json:"stage"`
	// Command is the warm-up's, where the stage is that.
	Command string `json:"command,omitempty"`
	MS      int64  `json:"ms"`
}

// templateTold shows on a terminal how far the making of a template is. It may be used concurrently.
type templateTold struct {
	name string
	warm []string

	mu     sync.Mutex
	bar    *progress // nil where there is no terminal
	stages []stageTook
	last   sandbox.TemplateProgress
	began  time.Time // the last stage
}

func (a *app) tellTemplate(name string, warm []string) *templateTold {
	t := &templateTold{name: "template " + name, warm: warm}
	if bar := a.newProgress(); bar.bars != nil {
		t.bar = bar
	}
	return t
}

// progress is for a TemplateSpec.
func (t *templateTold) progress(p sandbox.TemplateProgress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.stages) == 0 || p.Stage != t.last.Stage || p.Program != t.last.Program {
		t.endStage()
		s := stageTook{Stage: p.Stage}
		if p.Stage == sandbox.TemplateWarmUp && p.Program < len(t.warm) {
			s.Command = t.warm[p.Program]
		}
		t.stages, t.began = append(t.stages, s), time.Now()
	}
	t.last = p
	if t.bar == nil {
		return
	}
	phase := string(p.Stage)
	if p.Stage == sandbox.TemplateWarmUp {
		phase = fmt.Sprintf("%s %d of %d", phase, p.Program+1, len(t.warm))
	}
	t.bar.bytes(t.name, phase, p.Done, p.Total)
}

// endStage notes how long the last stage has taken. The caller holds mu.
func (t *templateTold) endStage() {
	if n := len(t.stages); n > 0 {
		t.stages[n-1].MS = time.Since(t.began).Milliseconds()
	}
}

// close removes what is shown, and returns how long each stage has taken.
func (t *templateTold) close() []stageTook {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endStage()
	if t.bar != nil {
		t.bar.close()
	}
	return t.stages
}

// output is where a program of the warm-up writes to: line by line, above what is shown. It is nil where nothing is.
func (t *templateTold) output() io.Writer {
	if t.bar == nil {
		return nil
	}
	return &linesTold{to: t}
}

// linesTold shows what is written to it, line by line; one that does not end in a newline is shown with the next.
type linesTold struct {
	to   *templateTold
	rest []byte
}

// longestLine is what is shown of a line that does not end, in bytes.
const longestLine = 4 << 10

func (l *linesTold) Write(p []byte) (int, error) {
	l.to.mu.Lock()
	defer l.to.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole && len(l.rest) <= longestLine {
			return len(p), nil
		}
		l.to.bar.line("%s", line)
		if l.rest = rest; !whole {
			l.rest = nil
		}
	}
}
