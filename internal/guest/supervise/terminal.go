package supervise

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/guest/pty"
	"github.com/aethervm/aether/sandbox"
)

// parseSize parses "ROWSxCOLS".
func parseSize(text string) (size sandbox.TerminalSize, err error) {
	if _, err := fmt.Sscanf(text, "%dx%d", &size.Rows, &size.Cols); err != nil || size.String() != text || !size.Valid() {
		return size, fmt.Errorf("size of a terminal %q", text)
	}
	return size, nil
}

// terminal is that of a program, with whoever types and looks on.
type terminal struct {
	pty     *pty.Terminal
	in, out *os.File
	err     *os.File
	shown   chan struct{} // closed when all that was written was passed on
}

func openTerminal(o Options) (*terminal, error) {
	// Else a write to nobody would end this process: it may be its standard output.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	p, err := pty.Open(*o.Terminal)
	if err != nil {
		return nil, err
	}
	return &terminal{
		pty: p, in: os.NewFile(uintptr(o.Streams[0]), "input"), out: os.NewFile(uintptr(o.Streams[1]), "output"),
		err: os.NewFile(uintptr(o.Streams[2]), "error output"), shown: make(chan struct{}),
	}, nil
}

// serve passes on in both directions until finish or close.
func (t *terminal) serve() {
	go t.typeInput()
	go func() {
		defer close(t.shown)
		buf := make([]byte, 64<<10)
		broken := false
		t.pty.Output(buf, func(n int) {
			if !broken { // after that it is read and dropped: the program goes on
				_, err := t.out.Write(buf[:n])
				broken = err != nil
			}
		})
	}()
}

// keysHeld is how many pieces of what was typed are held for a program that does not read, so that a new size does not
// wait behind them.
const keysHeld = 16

// typeInput ends with the input: at its proper end, of which the program is told, or because nobody is there any more.
// What is no frame is that, too.
func (t *terminal) typeInput() {
	frames := agentproto.NewReader(t.in)
	keys := make(chan []byte, keysHeld)
	defer close(keys)
	go t.typeKeys(keys)
	for {
		f, err := frames.Next()
		if err != nil {
			return
		}
		switch f.Kind {
		case agentproto.KindInput:
			if len(f.Payload) > 0 {
				keys <- bytes.Clone(f.Payload)
			}
		case agentproto.KindInputEnd:
			keys <- nil
		case agentproto.KindResize:
			size, err := agentproto.DecodeSize(f.Payload)
			if err != nil || t.pty.Resize(size) != nil {
				return
			}
		default:
			return
		}
	}
}

// typeKeys types what comes; nil is the end of the input.
func (t *terminal) typeKeys(keys <-chan []byte) {
	for data := range keys {
		if data == nil {
			_ = t.pty.TypeEnd() // the program may have ended, here and below
			continue
		}
		_, _ = t.pty.Write(data)
	}
}

// finish is called when the program has ended. It returns when what it wrote was passed on, or when that is not wanted
// any more.
func (t *terminal) finish(kill <-chan os.Signal, also <-chan struct{}) {
	t.pty.Finish()
	select {
	case <-t.shown:
	case <-kill:
	case <-also:
	}
}

// close ends the terminal. The process must end after it: what waits for the input may wait for ever.
func (t *terminal) close() {
	t.pty.Close()
	_ = t.out.Close()
	_ = t.err.Close()
}
