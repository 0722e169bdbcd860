package runtimetest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/sandbox"
)

// Exec understands, as a shell's line or as arguments, commands separated by "; ":
//
//	echo WORD...     cat [FILE]        write FILE WORD...     mkdir -p -- DIR
//	sleep SECONDS    exit N            flood BYTES            stderr WORD...
//	env NAME         true              die                   fetch ADDRESS URL
//	sizes (of its terminal, as they come; it writes what is typed, too)
//
// A python3 or node keeps variables: its code is "NAME = VALUE", "NAME", "raise TEXT", or one of the
// commands above after "!".
func (b *box) Exec(ctx context.Context, cmd sandbox.Cmd) (sandbox.Exit, error) {
	if err := cmd.Check(); err != nil {
		return sandbox.Exit{}, err
	}
	if err := b.check("exec"); err != nil {
		return sandbox.Exit{}, err
	}
	start := time.Now()
	r := &running{env: cmd.Env, signal: make(chan int, 1)}
	b.mu.Lock()
	b.running[r] = true
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.running, r)
		b.mu.Unlock()
	}()
	if cmd.Stdout == nil {
		cmd.Stdout = io.Discard
	}
	if cmd.Stderr == nil {
		cmd.Stderr = io.Discard
	}
	if cmd.Stdin == nil {
		cmd.Stdin = strings.NewReader("")
	}
	exit, err := b.dispatch(ctx, cmd, r)
	if err != nil && ctx.Err() != nil {
		killErr := b.check("kill") // it takes a program to end one
		if killErr == nil && b.d.OnKill != nil {
			killErr = b.d.OnKill()
		}
		if killErr != nil && b.life.Err() == nil {
			err = fmt.Errorf("%w; its processes may still run: %w", context.Cause(ctx), killErr)
		}
	}
	exit.Duration = time.Since(start)
	return exit, err
}

func (b *box) dispatch(ctx context.Context, cmd sandbox.Cmd, r *running) (sandbox.Exit, error) {
	switch name := cmd.Args[0]; {
	case name == "python3" || name == "node":
		return b.interpret(ctx, cmd, r)
	case name == guestagent.Mount && len(cmd.Args) == 4:
		return b.agent(cmd)
	case name == "/bin/sh" && len(cmd.Args) == 7: // the runtime's script for signals
		return sandbox.Exit{}, b.signal(cmd)
	case name == "/bin/sh":
		return b.line(ctx, cmd, r, cmd.Args[2])
	}
	return b.line(ctx, cmd, r, strings.Join(cmd.Args, " "))
}

func (b *box) signal(cmd sandbox.Cmd) error {
	number, err := strconv.Atoi(cmd.Args[4])
	if err != nil {
		return err
	}
	n := 0
	b.mu.Lock()
	for r := range b.running {
		if slices.Contains(r.env, cmd.Args[5]) {
			n++
			select {
			case r.signal <- number:
			default:
			}
		}
	}
	b.mu.Unlock()
	_, err = fmt.Fprintln(cmd.Stdout, n)
	return err
}

var errStop = errors.New("stop")

func (b *box) line(ctx context.Context, cmd sandbox.Cmd, r *running, line string) (sandbox.Exit, error) {
	var deadline <-chan time.Time
	if cmd.Timeout > 0 {
		t := time.NewTimer(cmd.Timeout)
		defer t.Stop()
		deadline = t.C
	}
	var exit sandbox.Exit
	for part := range strings.SplitSeq(line, "; ") {
		err := b.command(ctx, cmd, r, deadline, strings.Fields(part), &exit)
		if errors.Is(err, errStop) {
			return exit, nil
		}
		if err != nil {
			return sandbox.Exit{}, err
		}
	}
	return exit, nil
}

func (b *box) sizes(ctx context.Context, cmd sandbox.Cmd) error {
	if cmd.Terminal == nil {
		_, err := fmt.Fprintln(cmd.Stdout, "no terminal")
		return err
	}
	if _, err := fmt.Fprintf(cmd.Stdout, "%v %s\n", cmd.Terminal.Size, cmd.Terminal.Term); err != nil {
		return err
	}
	copied := make(chan error, 1)
	typed := make(chan []byte)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		buf := make([]byte, 4<<10)
		for {
			n, err := cmd.Stdin.Read(buf)
			if n > 0 {
				select {
				case typed <- bytes.Clone(buf[:n]):
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				copied <- err
				return
			}
		}
	}()
	for {
		var err error
		select {
		case size := <-cmd.Terminal.Resize:
			_, err = fmt.Fprintf(cmd.Stdout, "%v\n", size)
		case data := <-typed:
			_, err = cmd.Stdout.Write(data)
		case err = <-copied:
			if errors.Is(err, io.EOF) {
				return nil
			}
		case <-b.life.Done():
			return context.Cause(b.life)
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

func (b *box) command(ctx context.Context, cmd sandbox.Cmd, r *running, deadline <-chan time.Time, words []string, exit *sandbox.Exit) error {
	if len(words) == 0 {
		return nil
	}
	arg := strings.Join(words[1:], " ")
	var err error
	switch words[0] {
	case "true":
	case "sizes": // of its terminal, until the input ends; what is typed is written, too
		return b.sizes(ctx, cmd)
	case "echo":
		_, err = fmt.Fprintln(cmd.Stdout, arg)
	case "stderr":
		_, err = fmt.Fprintln(cmd.Stderr, arg)
	case "env":
		for _, kv := range sandbox.Environ(b.state.spec.Env, cmd.Env) {
			if name, value, _ := strings.Cut(kv, "="); name == arg {
				_, err = fmt.Fprintln(cmd.Stdout, value)
			}
		}
	case "cat":
		if arg == "" {
			_, err = io.Copy(cmd.Stdout, cmd.Stdin)
			break
		}
		if err = b.ReadFile(ctx, arg, cmd.Stdout); err != nil {
			_, err = fmt.Fprintln(cmd.Stderr, err)
			exit.Code = 1
		}
	case "write":
		err = b.WriteFile(ctx, words[1], strings.NewReader(strings.Join(words[2:], " ")), 0o644)
	case "mkdir":
		b.mu.Lock()
		b.state.files[path.Join(words[len(words)-1], ".keep")] = file{mode: 0o600}
		b.mu.Unlock()
	case "fetch":
		if err = b.fetch(ctx, words[1], words[2], cmd.Stdout); err != nil {
			_, err = fmt.Fprintln(cmd.Stderr, err)
			exit.Code = 1
		}
	case "flood":
		err = flood(cmd.Stdout, arg)
	case "exit":
		exit.Code, err = strconv.Atoi(arg)
		if err == nil {
			err = errStop
		}
	case "sleep":
		var seconds float64
		if seconds, err = strconv.ParseFloat(arg, 64); err == nil {
			err = b.sleep(ctx, r, deadline, time.Duration(seconds*float64(time.Second)), exit)
		}
	case "die":
		b.end(&sandbox.Error{Op: "exec", System: b.d.Name, Sandbox: b.id, Err: sandbox.ErrDead, Detail: "it was told to"})
		err = context.Cause(b.life)
	default:
		err = &sandbox.Error{Op: "exec", System: b.d.Name, Sandbox: b.id, Err: sandbox.ErrCannotRun, Detail: words[0] + ": not found", Remedy: "is it in the image?"}
	}
	return err
}

func flood(w io.Writer, count string) error {
	n, err := strconv.Atoi(count)
	const line = "0123456789 abcdefghijklmnopqrstuvwxyz 0123456789 abcdefghijklmno\n" // 64 bytes and its end
	for ; err == nil && n > 0; n -= len(line) {
		_, err = io.WriteString(w, line[:min(n, len(line))])
	}
	return err
}

func (b *box) sleep(ctx context.Context, r *running, deadline <-chan time.Time, d time.Duration, exit *sandbox.Exit) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case n := <-r.signal:
		*exit = sandbox.Exit{Code: -1, Signal: n}
		return errStop
	case <-deadline:
		*exit = sandbox.Exit{Code: -1, Signal: 9, TimedOut: true}
		return errStop
	case <-b.life.Done():
		return context.Cause(b.life)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// interpret stands for both programs that the runtime has for an interpreter: the one that starts it
// has an argument fewer, or reads no request.
func (b *box) interpret(ctx context.Context, cmd sandbox.Cmd, r *running) (sandbox.Exit, error) {
	line, err := bufio.NewReader(cmd.Stdin).ReadBytes('\n')
	if errors.Is(err, io.EOF) && len(line) == 0 {
		b.mu.Lock()
		b.state.began = true
		b.mu.Unlock()
		return sandbox.Exit{}, nil
	}
	b.mu.Lock()
	began, fresh := b.state.began, len(b.state.vars) == 0
	b.mu.Unlock()
	if !began {
		return sandbox.Exit{Code: 97}, nil
	}
	var req struct{ Code string }
	if err := json.Unmarshal(line, &req); err != nil {
		return sandbox.Exit{}, err
	}
	enc := json.NewEncoder(cmd.Stdout)
	answer := map[string]any{"done": true, "fresh": fresh}
	name, value, assigns := strings.Cut(req.Code, " = ")
	switch {
	case strings.HasPrefix(req.Code, "!"):
		out := cmd
		out.Stdout = events{enc}
		exit, err := b.line(ctx, out, r, req.Code[1:])
		if err != nil || !exit.Success() {
			return exit, err
		}
	case strings.HasPrefix(req.Code, "raise "):
		answer["error"] = map[string]string{"name": "Exception", "message": req.Code[6:], "traceback": "Traceback: " + req.Code[6:]}
	case assigns:
		b.mu.Lock()
		b.state.vars[name] = value
		b.mu.Unlock()
	default:
		b.mu.Lock()
		answer["value"] = b.state.vars[name]
		b.mu.Unlock()
	}
	return sandbox.Exit{}, enc.Encode(answer)
}

// Connect is sandbox.Connector's, for the socket of an interpreter.
func (b *box) Connect(ctx context.Context, name string, in io.Reader, out io.Writer) error {
	if !b.d.Connects {
		return &sandbox.Error{Op: "connect", System: b.d.Name, Err: sandbox.ErrUnsupported, Detail: "Connects is not set"}
	}
	b.d.Connected.Add(1)
	exit, err := b.Exec(ctx, sandbox.Cmd{Args: []string{"python3", name}, Stdin: in, Stdout: out})
	if err == nil && exit.Code == 97 {
		err = &sandbox.Error{Op: "connect", System: b.d.Name, Err: fs.ErrNotExist, Detail: name}
	}
	return err
}

// events writes output as an interpreter does.
type events struct{ enc *json.Encoder }

func (e events) Write(p []byte) (int, error) {
	return len(p), e.enc.Encode(map[string][]byte{"o": p})
}
