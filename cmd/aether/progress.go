package main

import (
	"fmt"
	"os"
	"sync/atomic"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// progress shows how far a long command is, on standard error: a bar on a terminal, else a line
// now and then. Its methods are called by one goroutine at a time.
type progress struct {
	app  *app
	bars *mpb.Progress // nil where there is no terminal
	bar  *mpb.Bar
	// label stands before the bar. The bar reads it from a goroutine of its own.
	label atomic.Pointer[string]
	last  string // line printed where there is no terminal
}

func (a *app) newProgress() *progress {
	p := &progress{app: a}
	p.label.Store(new(string))
	if f, ok := a.err.(*os.File); ok && os.Getenv("TERM") != "dumb" && wideEnough(f) {
		p.bars = mpb.New(mpb.WithOutput(f), mpb.WithWidth(64))
	}
	return p
}

// wideEnough tells whether f is a terminal that a bar fits on. One that does not say how wide it is
// gets lines.
func wideEnough(f *os.File) bool {
	const narrowest = 60
	width, _, err := term.GetSize(int(f.Fd()))
	return err == nil && width >= narrowest
}

// steps shows that done of total steps are done, and what is being done now. group is a coarser
// description: where there is no terminal a line is printed when it changes.
func (p *progress) steps(label, group string, done, total int) {
	if p.bars == nil {
		p.once(fmt.Sprintf("%s (%d of %d steps done)", group, done, total), group)
		return
	}
	p.show(label, int64(done), int64(total), decor.CountersNoUnit("%d/%d", decor.WCSyncSpace))
}

// bytes shows that done of total bytes of a phase of a job are done; total is 0 if not known.
func (p *progress) bytes(job, phase string, done, total int64) {
	if p.bars == nil {
		p.once(job+": "+phase, job+": "+phase)
		return
	}
	p.show(job+": "+phase, done, total, decor.CurrentKibiByte("% .1f", decor.WCSyncSpace))
}

func (p *progress) show(label string, done, total int64, counter decor.Decorator) {
	label = oneLine(label)
	p.label.Store(&label)
	if p.bar == nil {
		p.bar = p.bars.New(0, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return *p.label.Load() + " " })),
			mpb.AppendDecorators(counter, decor.Elapsed(decor.ET_STYLE_GO, decor.WCSyncSpace)),
		)
	}
	p.bar.SetTotal(max(total, done+1), false) // a bar that is full would end itself
	p.bar.SetCurrent(done)
}

// line prints a line, above the bar if there is one.
func (p *progress) line(format string, args ...any) {
	if p.bars == nil {
		p.app.notice(format, args...)
		return
	}
	// Progress is told and not kept: that nobody could be told stops nothing.
	_, _ = fmt.Fprintf(p.bars, "aether: %s\n", oneLine(fmt.Sprintf(format, args...)))
}

// once prints a line unless the last one had the same key.
func (p *progress) once(line, key string) {
	if p.last != key {
		p.last = key
		p.app.notice("%s", line)
	}
}

// close removes the bar.
func (p *progress) close() {
	if p.bars == nil {
		return
	}
	if p.bar != nil {
		p.bar.Abort(true)
	}
	p.bars.Wait()
}
