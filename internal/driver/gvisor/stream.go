package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// input feeds a program's standard input through a pipe. A pipe and not the caller's own file: the
// sandbox gets the descriptor itself and must get no other file of the host.
type input struct{ r, w *os.File }

func newInput(from io.Reader) (*input, error) {
	if from == nil {
		return &input{}, nil // /dev/null
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	go func() {
		// Fails with EPIPE when the program ends without reading all, and when close comes first.
		_, _ = io.Copy(w, from)
		_ = w.Close()
	}()
	return &input{r, w}, nil
}

// close ends the feeding. A Read of the caller's reader that blocks is left to end by itself.
func (i *input) close() {
	if i.r != nil {
		_ = i.r.Close()
		_ = i.w.Close() // perhaps again
	}
}

// output carries a program's output from a pipe to a writer.
type output struct {
	r, w *os.File
	done chan struct{}
}

func newOutput(to io.Writer) (*output, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	o := &output{r: r, w: w, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		defer r.Close() // the program's next write fails
		if _, err := io.Copy(to, onlyReader{r}); errors.Is(err, os.ErrDeadlineExceeded) {
			_ = drain(to, r)
		}
	}()
	return o, nil
}

// finish is called when the program has ended. It returns when everything that the program wrote
// has been delivered, or when ctx ends. It does not wait for the end of the pipe: processes that
// the program left running in the sandbox may hold it open for ever.
func (o *output) finish(ctx context.Context) {
	_ = o.r.SetReadDeadline(time.Unix(1, 0)) // fails if closed already
	select {
	case <-o.done:
	case <-ctx.Done():
	}
}

// close ends the delivery, except that of a Write that blocks.
func (o *output) close() {
	_ = o.w.Close()
	_ = o.r.Close() // perhaps again
}

// onlyReader hides that it is a file. Between two files io.Copy would move data in the kernel, and
// what had been taken from one and not yet given to the other when the deadline came would be lost.
type onlyReader struct{ io.Reader }

// drain copies what is in the pipe now.
func drain(to io.Writer, r *os.File) error {
	conn, err := r.SyscallConn()
	if err != nil {
		return err
	}
	if err := r.SetReadDeadline(time.Time{}); err != nil { // Read of conn respects it too
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n := 0
		var readErr error
		err := conn.Read(func(fd uintptr) bool {
			n, readErr = unix.Read(int(fd), buf)
			return true // never wait
		})
		if err := errors.Join(err, readErr); err != nil && !errors.Is(err, unix.EINTR) {
			return err // EAGAIN: empty
		}
		if errors.Is(readErr, unix.EINTR) {
			continue
		}
		if n <= 0 {
			return nil
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return err
		}
	}
}
