package oneshot

import (
	"errors"
	"io"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/sandbox"
)

// terminalInput is what the agent reads of a program with a terminal: what is typed and the sizes, as frames.
type terminalInput struct {
	*io.PipeReader
	over chan struct{}
}

// newTerminalInput begins to read both. An error of stdin ends both, its end only what is typed.
func newTerminalInput(stdin io.Reader, sizes <-chan sandbox.TerminalSize) *terminalInput {
	r, w := io.Pipe() // its writes are whole, whoever else writes
	in := &terminalInput{r, make(chan struct{})}
	go func() {
		if err := typed(w, stdin); err != nil || sizes == nil {
			_ = w.CloseWithError(err)
		}
	}()
	if sizes == nil {
		return in
	}
	go func() {
		for {
			select {
			case size, more := <-sizes:
				if !more || size.Valid() && agentproto.WriteFrame(w, agentproto.KindResize, agentproto.AppendSize(nil, size)) != nil {
					return
				}
			case <-in.over:
				return
			}
		}
	}()
	return in
}

// typed writes what is typed, and its end. After that there may be sizes still.
func typed(w io.Writer, stdin io.Reader) error {
	if stdin != nil {
		buf := make([]byte, 32<<10)
		for {
			n, err := stdin.Read(buf)
			if n > 0 {
				if err := agentproto.WriteFrame(w, agentproto.KindInput, buf[:n]); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
	}
	return agentproto.WriteFrame(w, agentproto.KindInputEnd, nil)
}

// close ends both, but for a Read of stdin that blocks.
func (in *terminalInput) close() {
	close(in.over)
	_ = in.Close()
}
