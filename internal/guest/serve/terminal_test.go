package serve

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/sandbox"
)

func onTerminal(script string, sizes <-chan sandbox.TerminalSize) agentproto.Exec {
	e := shell(script)
	e.Terminal = &sandbox.Terminal{Size: sandbox.TerminalSize{Rows: 33, Cols: 101}, Resize: sizes}
	return e
}

// watched is output that tells when a text is in it.
type watched struct {
	mu   sync.Mutex
	all  bytes.Buffer
	want string
	seen chan struct{} // closed then
}

func watchFor(text string) *watched { return &watched{want: text, seen: make(chan struct{})} }

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all.Write(p)
	if w.want != "" && bytes.Contains(w.all.Bytes(), []byte(w.want)) {
		w.want = ""
		close(w.seen)
	}
	return len(p), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.String()
}

func TestTerminal(t *testing.T) {
	c, _ := connected(t)
	var out, errOut bytes.Buffer
	exit, err := c.Exec(bounded(t), onTerminal("stty -echo; stty size; test -t 0 && echo in; tty >&2; cat; exit 5", nil), strings.NewReader("typed"), &out, &errOut)
	if err != nil || exit.Code != 5 || !strings.Contains(out.String(), "33 101\r\nin\r\n/dev/pts/") || !strings.HasSuffix(out.String(), "typed") || errOut.Len() != 0 {
		t.Errorf("%+v, %v, %q, %q", exit, err, out.String(), errOut.String())
	}
	if exit, err = c.Exec(bounded(t), onTerminal("cat", nil), nil, nil, nil); err != nil || exit.Code != 0 {
		t.Errorf("without input: %+v, %v", exit, err)
	}
	out.Reset()
	if _, err = c.Exec(bounded(t), onTerminal("stty raw -echo; head -c 1048576 /dev/zero; printf end", nil), nil, &out, nil); err != nil || out.Len() != 1<<20+3 {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
}

func TestTerminalIsResized(t *testing.T) {
	c, _ := connected(t)
	sizes := make(chan sandbox.TerminalSize)
	out := watchFor("ready")
	in, typing := io.Pipe()
	defer typing.Close()
	go func() {
		<-out.seen
		sizes <- sandbox.TerminalSize{} // none, so it is passed over
		sizes <- sandbox.TerminalSize{Rows: 5, Cols: 7}
	}()
	exit, err := c.Exec(bounded(t), onTerminal(`trap "stty size; exit 4" WINCH; echo ready; while :; do sleep 0.05; done`, sizes), in, out, nil)
	if err != nil || exit.Code != 4 || !strings.Contains(out.String(), "5 7") {
		t.Errorf("%+v, %v, %q", exit, err, out)
	}
}

func TestTerminalIsInterrupted(t *testing.T) {
	c, _ := connected(t)
	out := watchFor("ready")
	in, typing := io.Pipe()
	defer typing.Close()
	go func() {
		<-out.seen
		_, _ = typing.Write([]byte{3})
	}()
	exit, err := c.Exec(bounded(t), onTerminal("trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done", nil), in, out, nil)
	if err != nil || exit.Code != 9 {
		t.Errorf("%+v, %v, %q", exit, err, out)
	}
}

// Whoever ends the call ends the program, also one that keeps its terminal busy.
func TestTerminalIsCancelled(t *testing.T) {
	c, _ := connected(t)
	for _, script := range []string{"echo ready; sleep 1000", "trap '' HUP INT TERM; echo ready; while :; do echo x; done"} {
		ctx, cancel := context.WithCancel(bounded(t))
		out := watchFor("ready")
		go func() {
			<-out.seen
			cancel()
		}()
		began := time.Now()
		if _, err := c.Exec(ctx, onTerminal(script, nil), eternal{ctx}, out, nil); !errors.Is(err, context.Canceled) || time.Since(began) > 4*time.Second {
			t.Errorf("%s: %v after %v", script, err, time.Since(began))
		}
	}
}

// eternal is a person who types nothing.
type eternal struct{ ctx context.Context }

func (e eternal) Read([]byte) (int, error) {
	<-e.ctx.Done()
	return 0, e.ctx.Err()
}

// A copy of a machine goes on with the program, and nobody types the end of its input there.
func TestTerminalInACopy(t *testing.T) {
	c, m := connected(t)
	host := make(chan net.Conn, 1)
	dial := c.Dial
	c.Dial = func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		host <- conn
		return conn, err
	}
	dir := t.TempDir()
	out := watchFor("ready")
	script := "stty -echo; echo ready; while :; do test -e " + dir + "/go && break; sleep 0.05; done; read -t 1 line; echo $? > " + dir + "/ended"
	e := onTerminal(script, nil)
	e.Args[0] = "bash"
	ctx := bounded(t)
	go func() {
		<-out.seen
		m.copied.Add(1)
		_ = (<-host).Close()
		time.Sleep(200 * time.Millisecond)
		_ = os.WriteFile(dir+"/go", nil, 0o600)
	}()
	_, _ = c.Exec(ctx, e, eternal{ctx}, out, nil)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if code, _ := os.ReadFile(dir + "/ended"); len(code) > 0 {
			if strings.TrimSpace(string(code)) != "142" { // a time-out of bash, and no end of the input
				t.Errorf("read ended with %q", code)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the program was ended")
		}
	}
}

func TestBadSizesEndTheProgram(t *testing.T) {
	for name, frame := range map[string][]byte{
		"no terminal": agentproto.AppendFrame(nil, agentproto.KindResize, []byte{24, 0, 80, 0}),
		"no rows":     agentproto.AppendFrame(nil, agentproto.KindResize, []byte{0, 0, 80, 0}),
		"short":       agentproto.AppendFrame(nil, agentproto.KindResize, []byte{24}),
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := connected(t)
			conn, err := c.Dial(bounded(t))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			e := onTerminal("exec sleep 1000", nil)
			if name == "no terminal" {
				e = shell("exec sleep 1000")
			}
			e.Input = true
			request := agentproto.Request{Op: agentproto.OpExec, Exec: e}.Append(nil)
			if _, err := conn.Write(append(agentproto.AppendFrame(nil, agentproto.KindRequest, request), frame...)); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			frames := agentproto.NewReader(conn)
			for {
				f, err := frames.Next()
				if err != nil {
					t.Fatalf("the program was not ended: %v", err)
				}
				if f.Kind == agentproto.KindDone {
					if exit, err := agentproto.DecodeExit(f.Payload); err != nil || exit.Signal != 9 {
						t.Errorf("%+v, %v", exit, err)
					}
					return
				}
			}
		})
	}
}
