package oneshot

import (
	"errors"
	"io"
)

// Source is a reader that keeps its error, for a copy whose own error does not tell a reader that
// failed from a program that does not read any more. Err may be looked at once the copy has ended.
type Source struct {
	R   io.Reader
	Err error // the first other than io.EOF
}

func (s *Source) Read(p []byte) (int, error) {
	n, err := s.R.Read(p)
	if err != nil && s.Err == nil && !errors.Is(err, io.EOF) {
		s.Err = err
	}
	return n, err
}
