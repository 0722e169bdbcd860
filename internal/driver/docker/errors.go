package docker

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/aethervm/aether/sandbox"
)

// fail turns an error of the engine into one of package sandbox, with the engine's own words as its
// detail. Where ctx has ended, its cause is what the caller hears: the engine's error follows from it.
func (e *engine) fail(ctx context.Context, op, id string, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var typed *sandbox.Error
	var input *inputError
	if errors.As(err, &typed) || errors.As(err, &input) {
		return err
	}
	remedy, kind := classify(err)
	return &sandbox.Error{Op: op, System: system, Sandbox: id, Err: kind, Detail: detail(err), Remedy: remedy}
}

// classify finds the kind of an engine's error and what to do about it. The engine has status codes
// for a few things only; for the rest its text is all there is.
func classify(err error) (remedy string, kind error) {
	text := strings.ToLower(err.Error())
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case exhausted(err):
		return "the sandbox is at its limit of processes; end some, or ask for more", sandbox.ErrCannotRun
	case client.IsErrConnectionFailed(err):
		return startRemedy, sandbox.ErrUnavailable
	case has("no space left on device", "disk quota exceeded"):
		return "free space where the engine keeps its data (`docker info` names its root directory)", sandbox.ErrNoSpace
	case has("cannot allocate memory"):
		return "close other sandboxes, or ask for less memory", sandbox.ErrNoSpace
	case has("unknown or invalid runtime name", "unknown runtime specified"):
		return "name a runtime that `docker info` lists", sandbox.ErrUnsupported
	case has("bind source path does not exist", "invalid mount config"):
		return "the engine does not see this host's files; use an engine on this host", sandbox.ErrUnavailable
	case has("is paused", "paused, unpause"):
		return "resume the sandbox first", sandbox.ErrUnsupported
	case has("is not running", "is restarting", "is marked for removal", "no such container"):
		return "", sandbox.ErrDead
	case has("permission denied"):
		return "run as root or as a member of the group that owns the socket", fs.ErrPermission
	case errdefs.IsNotFound(err):
		return "", fs.ErrNotExist
	case errdefs.IsInvalidArgument(err):
		return "", sandbox.ErrInvalid
	case errdefs.IsNotImplemented(err):
		return "", sandbox.ErrUnsupported
	}
	return "see the engine's log", sandbox.ErrUnavailable
}

// detail is what the engine said, without the client's preamble.
func detail(err error) string {
	return strings.TrimPrefix(err.Error(), "Error response from daemon: ")
}
