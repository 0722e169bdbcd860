package agentproto

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/aethervm/aether/sandbox"
)

// Failure is an operation's error on its way to the host. There it is an error that unwraps to the
// one that its code stands for.
type Failure struct {
	Code FailureCode
	Text string
}

// FailureCode says what kind of error a Failure is.
type FailureCode uint8

// Codes of failures, and the errors that they stand for on the host.
const (
	FailOther      FailureCode = 0
	FailNotExist   FailureCode = 1 // fs.ErrNotExist
	FailExist      FailureCode = 2 // fs.ErrExist
	FailPermission FailureCode = 3 // fs.ErrPermission
	FailInvalid    FailureCode = 4 // sandbox.ErrInvalid
	FailCannotRun  FailureCode = 5 // sandbox.ErrCannotRun
	FailNoSpace    FailureCode = 6 // syscall.ENOSPC, in the guest
	FailLimit      FailureCode = 7 // syscall.EAGAIN: a limit of the guest was reached
	FailRefused    FailureCode = 8 // sandbox.ErrRefused
)

// classify finds the code of an error of the guest. The order matters: an error about a program may
// wrap fs.ErrNotExist as well.
func classify(err error) FailureCode {
	for _, c := range []struct {
		code FailureCode
		errs []error
	}{
		{FailLimit, []error{syscall.EAGAIN, syscall.ENOMEM}},
		{FailCannotRun, []error{sandbox.ErrCannotRun}},
		{FailNotExist, []error{fs.ErrNotExist, syscall.ENOTDIR}},
		{FailExist, []error{fs.ErrExist}},
		{FailPermission, []error{fs.ErrPermission, syscall.EROFS}},
		{FailNoSpace, []error{syscall.ENOSPC, syscall.EDQUOT}},
		{FailRefused, []error{sandbox.ErrRefused, syscall.ECONNREFUSED}},
		{FailInvalid, []error{sandbox.ErrInvalid, syscall.EISDIR, syscall.EINVAL, syscall.ENAMETOOLONG, syscall.ELOOP, syscall.EPROTOTYPE}},
	} {
		for _, candidate := range c.errs {
			if errors.Is(err, candidate) {
				return c.code
			}
		}
	}
	return FailOther
}

// maxFailureText keeps a message readable, whatever names are in it.
const maxFailureText = 8 << 10

// NewFailure makes a Failure of an error of the guest.
func NewFailure(err error) Failure {
	text := err.Error()
	return Failure{Code: classify(err), Text: text[:min(len(text), maxFailureText)]}
}

// Append appends the encoded failure to b.
func (f Failure) Append(b []byte) []byte { return appendString(append(b, byte(f.Code)), f.Text) }

// DecodeFailure decodes a failure. Codes that are not known count as FailOther.
func DecodeFailure(payload []byte) (Failure, error) {
	d := decoder{rest: payload}
	f := Failure{Code: FailureCode(d.byte()), Text: d.string()}
	return f, d.end()
}

func (f Failure) Error() string { return f.Text }

func (f Failure) Unwrap() error {
	switch f.Code {
	case FailNotExist:
		return fs.ErrNotExist
	case FailExist:
		return fs.ErrExist
	case FailPermission:
		return fs.ErrPermission
	case FailInvalid:
		return sandbox.ErrInvalid
	case FailCannotRun:
		return sandbox.ErrCannotRun
	case FailNoSpace:
		return syscall.ENOSPC
	case FailLimit:
		return syscall.EAGAIN
	case FailRefused:
		return sandbox.ErrRefused
	}
	return nil
}
