package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

const (
	execsARun  = 10
	burst      = 8
	streamSize = 50 * mib
)

// stepCold measures the way from Create to the first exec reply, and Close.
func stepCold(ctx context.Context, s *session) error {
	start := time.Now()
	sb, err := s.create(ctx)
	if err != nil {
		return err
	}
	if _, err := run(ctx, sb, "true"); err != nil {
		return err
	}
	s.since("start.cold", start)

	start = time.Now()
	if err := sb.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	s.since("start.close", start)
	return nil
}

// stepPython measures the way from Create to the output of a Python one-liner.
func stepPython(ctx context.Context, s *session) error {
	start := time.Now()
	sb, err := s.create(ctx)
	if err != nil {
		return err
	}
	out, err := run(ctx, sb, "python3", "-c", "print(6*7)")
	if err != nil {
		return err
	}
	if out != "42\n" {
		return fmt.Errorf("python3 printed %.40q, not 42", out)
	}
	s.since("start.python", start)
	return nil
}

// stepExec measures exec in a sandbox that runs already. Its first exec is not timed: that one is
// part of a cold start.
func stepExec(ctx context.Context, s *session) error {
	sb, err := s.create(ctx)
	if err != nil {
		return err
	}
	if _, err := run(ctx, sb, "true"); err != nil {
		return err
	}
	for i := range execsARun {
		start := time.Now()
		if _, err := run(ctx, sb, "true"); err != nil {
			return err
		}
		s.record(Sample{Name: "start.exec", Index: i, Value: millis(time.Since(start)), Unit: "ms"})
	}
	return nil
}

// stepBurst measures cold starts that are asked for at once. One that fails does not stop the others.
func stepBurst(ctx context.Context, s *session) error {
	errs := make([]error, burst)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range burst {
		wg.Go(func() {
			sb, err := s.create(ctx)
			if err == nil {
				_, err = run(ctx, sb, "true")
			}
			if err != nil {
				errs[i] = fmt.Errorf("sandbox %d of %d: %w", i+1, burst, err)
				return
			}
			s.record(Sample{Name: "start.burst8", Index: i, Value: millis(time.Since(start)), Unit: "ms"})
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// stepStream measures the way of bulk data: 50 MiB through the standard input of cat and back, in a
// sandbox that has run something.
func stepStream(ctx context.Context, s *session) error {
	sb, err := s.create(ctx)
	if err != nil {
		return err
	}
	if _, err := run(ctx, sb, "true"); err != nil {
		return err
	}
	var sent, back pattern
	start := time.Now()
	exit, err := sb.Exec(ctx, sandbox.Cmd{Args: []string{"cat"}, Stdin: io.LimitReader(&sent, streamSize), Stdout: &back})
	if err != nil {
		return err
	}
	if !exit.Success() || back.wrong || back.at != streamSize {
		return fmt.Errorf("cat: %v; %d of %d bytes came back, wrong: %v", exit, back.at, streamSize, back.wrong)
	}
	s.since("start.stream50", start)
	return nil
}

// pattern is an endless stream of bytes, each of which says where it is: a reader makes it, a writer
// checks it.
type pattern struct {
	at    int64
	wrong bool
}

// patternPeriod has no common factor with the sizes of buffers, so that lost or repeated ones show.
const patternPeriod = 251

// patternBlock is many periods of the pattern.
var patternBlock = func() []byte {
	b := make([]byte, patternPeriod*1024)
	for i := range b {
		b[i] = byte(i % patternPeriod)
	}
	return b
}()

// next is what comes next, n bytes at most.
func (p *pattern) next(n int) []byte {
	b := patternBlock[p.at%patternPeriod:]
	return b[:min(n, len(b))]
}

func (p *pattern) Read(b []byte) (int, error) {
	n := copy(b, p.next(len(b)))
	p.at += int64(n)
	return n, nil
}

func (p *pattern) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		want := p.next(len(rest))
		p.wrong = p.wrong || !bytes.Equal(rest[:len(want)], want)
		p.at += int64(len(want))
		rest = rest[len(want):]
	}
	return len(b), nil
}
