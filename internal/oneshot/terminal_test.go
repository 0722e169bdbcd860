package oneshot_test

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

func TestTerminal(t *testing.T) {
	var out bytes.Buffer
	exit, err := onHost(t).Exec(t.Context(), sandbox.Cmd{
		Args: []string{"sh", "-c", "stty -echo; stty size; echo $TERM; cat; exit 5"}, Stdin: strings.NewReader("half"), Stdout: &out,
		Terminal: &sandbox.Terminal{Size: sandbox.TerminalSize{Rows: 33, Cols: 101}, Term: "vt100"},
	})
	if err != nil || exit.Code != 5 || !strings.Contains(out.String(), "33 101\r\nvt100\r\n") || !strings.HasSuffix(out.String(), "half") {
		t.Errorf("%+v, %v, %q", exit, err, &out)
	}
	out.Reset()
	exit, err = onHost(t).Exec(t.Context(), sandbox.Cmd{Args: []string{"sleep", "1000"}, Timeout: 300 * time.Millisecond, Terminal: &sandbox.Terminal{}})
	if err != nil || !exit.TimedOut {
		t.Errorf("time-out: %+v, %v", exit, err)
	}
}

// A new size does not wait behind keys that the program does not read.
func TestSizeBeforeKeys(t *testing.T) {
	in, typing := io.Pipe()
	defer func() { _ = typing.Close() }()
	sizes := make(chan sandbox.TerminalSize)
	out := &ready{seen: make(chan struct{})}
	go func() {
		<-out.seen
		_, _ = io.WriteString(typing, strings.Repeat("x", 200<<10))
		sizes <- sandbox.TerminalSize{Rows: 5, Cols: 7}
	}()
	exit, err := onHost(t).Exec(t.Context(), sandbox.Cmd{
		Args:  []string{"sh", "-c", "stty raw -echo; trap 'exit 4' WINCH; echo ready; while :; do sleep 0.05; done"},
		Stdin: in, Stdout: out, Terminal: &sandbox.Terminal{Resize: sizes}, Timeout: 20 * time.Second,
	})
	if err != nil || exit.Code != 4 {
		t.Errorf("%+v, %v", exit, err)
	}
}

// ready is closed when a program has written.
type ready struct {
	once sync.Once
	seen chan struct{}
}

func (r *ready) Write(p []byte) (int, error) {
	r.once.Do(func() { close(r.seen) })
	return len(p), nil
}
