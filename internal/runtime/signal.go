package runtime

import (
	"context"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/internal/head"
	"github.com/aethervm/aether/sandbox"
)

// signalScript sends signal $1 to every process whose environment has the mark $2, and prints how
// many there were. The guest agent's own supervisors have it too and are spared.
const signalScript = `n=0
for d in /proc/[0-9]*; do
	grep -q "$2" "$d/environ" 2>/dev/null || continue
	grep -q "^$3" "$d/cmdline" 2>/dev/null && continue
	kill -"$1" "${d#/proc/}" 2>/dev/null && n=$((n+1))
done
echo $n`

const (
	signalTimeout = 10 * time.Second
	// A process that was just started is not there yet.
	signalTries = 5
	signalWait  = 50 * time.Millisecond
)

// Signal sends a signal to a background process and its descendants. KILL ends them for certain and
// needs nothing in the image; other signals need its sh and grep.
func (s *Session) Signal(ctx context.Context, req SignalRequest) (info ProcessInfo, err error) {
	ctx, c, err := s.call(ctx, "signal", "", CanExec)
	c.note("process", req.Process)
	c.note("signal", req.Signal)
	defer c.end(&err)
	if err != nil {
		return info, err
	}
	number, err := parseSignal(c.op, req.Signal)
	if err != nil {
		return info, err
	}
	p, err := s.process(c.op, req.Process)
	if err != nil {
		return info, err
	}
	c.sandbox = p.b.id
	if !p.running() {
		return info, refuse(CodeConflict, c.op, "poll it for its end", "the process has ended")
	}
	if number == unix.SIGKILL {
		return p.kill(ctx)
	}
	for range signalTries {
		sent, err := p.signal(ctx, number)
		if err != nil {
			return info, err
		}
		if sent || !p.running() {
			return p.info(), nil
		}
		select {
		case <-time.After(signalWait):
		case <-ctx.Done():
			return info, context.Cause(ctx)
		}
	}
	return info, refuse(CodeConflict, c.op, "send KILL, which always reaches it", "no process of it was found: it has cleared its environment, or is in an image without grep")
}

// kill ends the process and its descendants.
func (p *process) kill(ctx context.Context) (info ProcessInfo, err error) {
	u, err := p.b.enter(ctx, forReading) // nothing can be ended in a sandbox that is paused
	if err != nil {
		return info, p.b.reason(ctx, err)
	}
	defer u.end()
	w := elsewhere(ctx) // it is the driver that ends it, in a call that began with the process
	w.start()
	defer w.stop()
	p.cancel(errKilled)
	select {
	case <-p.done:
	case <-ctx.Done():
		return info, context.Cause(ctx)
	}
	if info = p.info(); info.Error != nil {
		return info, info.Error
	}
	return info, nil
}

func (p *process) signal(ctx context.Context, number unix.Signal) (sent bool, err error) {
	u, err := p.b.enter(ctx, forReading)
	if err != nil {
		return false, p.b.reason(ctx, err)
	}
	defer u.end()
	out := head.New(64)
	_, err = u.sb.Exec(u.ctx, sandbox.Cmd{
		Args:   []string{"/bin/sh", "-c", signalScript, "sh", strconv.Itoa(int(number)), processEnv + "=" + p.id, guestagent.Mount},
		Stdout: out, Timeout: signalTimeout,
	})
	if err != nil {
		return false, p.b.reason(u.ctx, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(out.String()))
	return err == nil && n > 0, nil
}

func parseSignal(op, name string) (unix.Signal, error) {
	upper := strings.ToUpper(strings.TrimSpace(name))
	if n, err := strconv.Atoi(upper); err == nil && n > 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	if !strings.HasPrefix(upper, "SIG") {
		upper = "SIG" + upper
	}
	if n := unix.SignalNum(upper); n != 0 {
		return n, nil
	}
	return 0, refuse(CodeInvalid, op, "use a name such as TERM, INT, HUP, USR1 or KILL, or a number from 1 to 64", "there is no signal %q", clip(name, 32))
}
