package agentsandbox

import (
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/guest/files"
	"github.com/aethervm/aether/sandbox"
)

// ErrMemory is wrapped by what a Machine explains if it has ended for want of memory on the host's side, be it that the host
// has none left or that the machine's own limit was reached.
var ErrMemory = errors.New("out of memory")

// Typed makes a sandbox.Error of any error that is none yet. id may be empty.
func Typed(op, system, id string, err error) error {
	if _, ok := errors.AsType[*sandbox.Error](err); ok {
		return err
	}
	e := &sandbox.Error{Op: op, System: system, Sandbox: id, Err: err}
	var failure agentproto.Failure
	switch {
	case errors.As(err, &failure):
		e.Detail = failure.Text
		if e.Err = failure.Unwrap(); e.Err == nil {
			e.Err = errors.New("the guest refused")
		}
		switch failure.Code {
		case agentproto.FailNoSpace:
			e.Remedy = "the sandbox's own file system is full: its files live in its memory; remove some, or give it more"
		case agentproto.FailLimit:
			e.Remedy = "the sandbox has reached its limit of processes, memory or open sockets; give it more, or end some"
		case agentproto.FailCannotRun:
			e.Remedy = "is the program in the image, executable, and the working directory there?"
		default:
			e.Remedy = files.Remedy(e.Err)
		}
	default:
		if remedy := scarcity(err); remedy != "" {
			e.Err, e.Detail, e.Remedy = sandbox.ErrNoSpace, err.Error(), remedy
		}
	}
	return e
}

// scarcity is what to do about an error that means that the host has run out of something; empty for others.
func scarcity(err error) string {
	for _, s := range []struct {
		kinds  []error
		remedy string
	}{
		{[]error{syscall.ENOSPC, syscall.EDQUOT}, "free space on the disk that aether keeps its files on, or have fewer sandboxes"},
		{[]error{syscall.ENOMEM, syscall.ENOBUFS}, "the host has no memory left: close sandboxes, or give them less"},
		{[]error{syscall.EMFILE, syscall.ENFILE}, "raise the limit of open files (`ulimit -n`), or have fewer sandboxes"},
		{[]error{syscall.EAGAIN}, "raise the limit of processes (`ulimit -u`, pids.max), or have fewer sandboxes"},
	} {
		for _, kind := range s.kinds {
			if errors.Is(err, kind) {
				return s.remedy
			}
		}
	}
	return ""
}

// broken tells whether err is that of a connection whose other end is gone.
func broken(err error) bool {
	for _, kind := range []error{
		io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed,
		syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNREFUSED, syscall.ENOTCONN,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
