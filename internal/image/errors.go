package image

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/aethervm/aether/sandbox"
)

// fail dresses err, met while op was tried on what, for the caller. An error that already says all
// is passed on.
func fail(op, what string, err error) error {
	if _, ok := errors.AsType[*sandbox.Error](err); ok {
		return err
	}
	e := &sandbox.Error{Op: op, Err: err, Detail: what}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Err, e.Detail = sandbox.ErrNoSpace, fmt.Sprintf("%s: %v", what, err)
		e.Remedy = "free some space (`aether image rm` helps), or set AETHER_STATE to a directory on a larger disk"
	case errors.Is(err, fs.ErrPermission):
		e.Remedy = "run it as root, or set AETHER_STATE to a directory of your own"
	}
	return e
}

// bad is the error about a source that cannot be accepted.
func bad(format string, args ...any) error {
	return &sandbox.Error{Op: "read image source", Err: sandbox.ErrInvalid, Detail: fmt.Sprintf(format, args...),
		Remedy: "the source is damaged or hostile: get it again from where you trust it"}
}
