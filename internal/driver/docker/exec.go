package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/aethervm/aether/internal/oneshot"
	"github.com/aethervm/aether/sandbox"
)

// A run that finds the sandbox at its limit of processes is tried again for about startPatience: to
// end what fills a sandbox takes one more process, and a fork bomb leaves gaps.
const (
	startPatience = 5 * time.Second
	startInterval = 50 * time.Millisecond
)

// run is the sandbox's oneshot.RunFunc.
func (s *Sandbox) run(ctx context.Context, p oneshot.Program) (int, error) {
	ctx, stop, err := s.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer stop()
	for deadline := time.Now().Add(startPatience); ; {
		code, begun, err := s.runOnce(ctx, p)
		// Part of the input may be used up, so a run with input has one chance.
		if err == nil || begun || !exhausted(err) || p.Stdin != nil || time.Now().After(deadline) {
			return code, s.fail(ctx, "exec", err)
		}
		select {
		case <-ctx.Done():
			return 0, s.fail(ctx, "exec", err)
		case <-time.After(startInterval):
		}
	}
}

// runOnce runs a program. begun says that it may have run, also if there is an error.
func (s *Sandbox) runOnce(ctx context.Context, p oneshot.Program) (code int, begun bool, err error) {
	cli := s.eng.cli
	created, err := cli.ExecCreate(ctx, s.container, client.ExecCreateOptions{
		User:         "0:0",
		Cmd:          p.Args,
		Env:          p.Env,
		WorkingDir:   "/",
		AttachStdin:  p.Stdin != nil,
		AttachStdout: true,
		AttachStderr: true,
	})
	if err != nil {
		return 0, false, err
	}
	stream, err := cli.ExecAttach(ctx, created.ID, client.ExecAttachOptions{})
	observeAttach(ctx, created.ID)
	if err != nil {
		return 0, false, err
	}
	defer stream.Close()
	// A closed connection is the only way to end the copying below. The program itself is not ended
	// by that.
	defer context.AfterFunc(ctx, stream.Close)()

	input := feed(stream.HijackedResponse, p.Stdin)
	stdout := &refusalFilter{w: p.Stdout}
	if err := s.deliver(ctx, created.ID, stream.HijackedResponse, stdout, p.Stderr); err != nil {
		return 0, true, err
	}
	end, err := s.waitExit(ctx, created.ID)
	if err != nil {
		return 0, true, err
	}
	if end.PID == 0 && len(stdout.held) > 0 {
		return 0, false, errors.New(strings.TrimSpace(string(stdout.held)))
	}
	if err := stdout.flush(); err != nil {
		return 0, true, err
	}
	select {
	case err := <-input:
		if err != nil {
			return 0, true, &inputError{err}
		}
	default: // the program has ended without reading all of it
	}
	return end.ExitCode, true, nil
}

// stallInterval is how often the engine is asked whether the program has ended while its output waits
// for a slow reader. It is well below the two seconds that the engine leaves for reading the rest.
const stallInterval = 400 * time.Millisecond

// deliver copies the program's output to stdout and stderr until it ends. It returns no earlier than
// its goroutines do.
func (s *Sandbox) deliver(ctx context.Context, execID string, stream client.HijackedResponse, stdout, stderr io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	queue := newSpool()
	var tasks sync.WaitGroup
	defer func() {
		cancel()
		queue.leave()
		stream.Close()
		tasks.Wait()
	}()
	tasks.Go(func() {
		// Without the reader's WriteTo, which would copy in pieces of its small buffer.
		_, err := io.CopyBuffer(queue, struct{ io.Reader }{stream.Reader}, make([]byte, 64<<10))
		if err == nil {
			err = io.EOF
		}
		queue.end(err)
	})
	tasks.Go(func() {
		ticks := time.NewTicker(stallInterval)
		defer ticks.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticks.C:
			}
			if !queue.stalled(stallInterval / 2) {
				continue
			}
			end, err := s.eng.cli.ExecInspect(ctx, execID, client.ExecInspectOptions{})
			if err != nil || !end.Running {
				queue.widen()
				return
			}
		}
	})
	return demux(stdout, stderr, queue)
}

// waitExit waits until the engine knows how the program has ended. Its output may end earlier: the
// two travel different ways inside the engine, and a program may close its output and go on.
func (s *Sandbox) waitExit(ctx context.Context, execID string) (client.ExecInspectResult, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		end, err := s.eng.cli.ExecInspect(ctx, execID, client.ExecInspectOptions{})
		if err != nil || !end.Running {
			return end, err
		}
		select {
		case <-ctx.Done():
			return end, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// feed copies r to the program's standard input and then closes it. The channel gets the error of
// reading r, if there is one. An error of writing means that the program does not read any more.
func feed(stream client.HijackedResponse, r io.Reader) <-chan error {
	done := make(chan error, 1)
	if r == nil {
		done <- nil
		return done
	}
	go func() {
		source := &oneshot.Source{R: r}
		_, _ = io.Copy(stream.Conn, source)
		_ = stream.CloseWrite()
		done <- source.Err
	}()
	return done
}

// inputError is an error of the caller's own reader.
type inputError struct{ err error }

func (e *inputError) Error() string { return "read standard input: " + e.err.Error() }
func (e *inputError) Unwrap() error { return e.err }

// refusalPrefix begins what the engine writes, as if it were the program's own output, when the
// runtime has not started the program.
const refusalPrefix = "OCI runtime exec failed: "

// refusalFilter holds output back that may be the engine's report of a refusal, until it is known
// whether the program has run.
type refusalFilter struct {
	w    io.Writer
	held []byte
	pass bool
}

// maxRefusal is longer than any report of a refusal.
const maxRefusal = 16 << 10

func (f *refusalFilter) Write(p []byte) (int, error) {
	if f.pass {
		return f.w.Write(p)
	}
	f.held = append(f.held, p...)
	n := min(len(f.held), len(refusalPrefix))
	if len(f.held) <= maxRefusal && bytes.HasPrefix([]byte(refusalPrefix), f.held[:n]) {
		return len(p), nil
	}
	return len(p), f.flush()
}

func (f *refusalFilter) flush() error {
	f.pass = true
	if len(f.held) == 0 {
		return nil
	}
	held := f.held
	f.held = nil
	_, err := f.w.Write(held)
	return err
}

// exhausted tells whether a program could not be started because the sandbox is at its limit of
// processes.
func exhausted(err error) bool {
	text := strings.ToLower(err.Error())
	// The second is what runc makes of its own helper failing to start a thread.
	return strings.Contains(text, "resource temporarily unavailable") ||
		strings.Contains(text, "read init-p: connection reset by peer")
}

// observeAttach reports the request that turns into the program's streams, which does not pass the
// meter.
func observeAttach(ctx context.Context, execID string) {
	if !sandbox.Observed(ctx) {
		return
	}
	body, err := json.Marshal(container.ExecStartRequest{})
	if err != nil {
		return
	}
	request := "POST /exec/" + execID + "/start\n" + string(body)
	const reply = "101 UPGRADED\n"
	sandbox.Observe(ctx, sandbox.Call{Plane: "http", Op: "POST /exec/{id}/start",
		Sent: len(request), Received: len(reply), Request: request, Reply: reply})
}
