package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}` + "\n"

// pair returns two connected Unix sockets.
func pair(t testing.TB) (ours, theirs *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		conn, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		conns[i] = conn.(*net.UnixConn)
		t.Cleanup(func() { _ = conn.Close() })
	}
	return conns[0], conns[1]
}

// serve plays QEMU: answer maps a command to lines to be sent, with %d for the command's ID. It
// ends with the connection.
func serve(conn *net.UnixConn, answer map[string]string) {
	_, _ = io.WriteString(conn, greeting)
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var c command
		if json.Unmarshal(lines.Bytes(), &c) != nil {
			return
		}
		text, ok := answer[c.Execute]
		if !ok {
			text = `{"return": {}, "id": %d}`
		}
		if text == "" {
			_ = conn.Close()
			return
		}
		_, _ = fmt.Fprintf(conn, text+"\n", c.ID)
	}
}

func connect(t *testing.T, answer map[string]string) *Client {
	t.Helper()
	ours, theirs := pair(t)
	go serve(theirs, answer)
	c, err := New(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := c.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	})
	return c
}

func TestRun(t *testing.T) {
	c := connect(t, map[string]string{
		"query-status": `{"event": "NOISE", "data": {}}` + "\n" + `{"return": {"status": "running"}, "id": %d}`,
		"bad":          `{"error": {"class": "GenericError", "desc": "no such thing"}, "id": %d}`,
		"odd":          `{"return": 7, "id": %d}`,
	})
	var seen []sandbox.Call
	ctx := sandbox.WithObserver(t.Context(), func(c sandbox.Call) { seen = append(seen, c) })
	var status struct{ Status string }
	if err := c.Run(ctx, "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("got %+v, %v", status, err)
	}
	var failed *Error
	if err := c.Run(ctx, "bad", nil, nil); !errors.As(err, &failed) || failed.Class != "GenericError" || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("got %v", err)
	}
	if err := c.Run(ctx, "odd", nil, &status); !errors.Is(err, ErrProtocol) {
		t.Errorf("got %v, want ErrProtocol", err)
	}
	if len(seen) != 3 || seen[0].Plane != "qmp" || seen[0].Op != "query-status" || seen[0].Sent == 0 || seen[0].Received == 0 {
		t.Errorf("observed %+v", seen)
	}
}

func TestConcurrentCommands(t *testing.T) {
	c := connect(t, map[string]string{"x": `{"return": %d, "id": %[1]d}`})
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			var id uint64
			if err := c.Run(t.Context(), "x", nil, &id); err != nil || id == 0 {
				t.Errorf("got %d, %v", id, err)
			}
		})
	}
	wg.Wait()
}

func TestEvent(t *testing.T) {
	c := connect(t, map[string]string{"stop": `{"return": {}, "id": %d}` + "\n" + `{"event": "STOP"}`})
	stopped := c.Event("STOP")
	if err := c.Run(t.Context(), "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	select {
	case <-stopped:
	case <-time.After(10 * time.Second):
		t.Error("no event")
	}
}

func TestPeerEnds(t *testing.T) {
	c := connect(t, map[string]string{"quit": ""})
	if err := c.Run(t.Context(), "quit", nil, nil); err == nil {
		t.Error("a command succeeded without an answer")
	}
	<-c.Ended()
	if err := c.Run(t.Context(), "stop", nil, nil); err == nil {
		t.Error("a command succeeded without a connection")
	}
}

func TestContext(t *testing.T) {
	c := connect(t, map[string]string{"hang": `{"event": "X%d"}`})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Run(ctx, "hang", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := c.Run(t.Context(), "stop", nil, nil); err != nil {
		t.Errorf("after a command that was given up: %v", err)
	}
	// A peer that says nothing at all.
	ours, _ := pair(t)
	if _, err := New(ctx, ours); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a greeting: %v", err)
	}
}

func TestNoGreeting(t *testing.T) {
	for _, text := range []string{"", "hello\n", "{}\n", `{"return": {}}` + "\n", strings.Repeat("x", maxLine+1)} {
		ours, theirs := pair(t)
		go func() {
			_, _ = io.WriteString(theirs, text)
			_ = theirs.Close()
		}()
		if _, err := New(t.Context(), ours); err == nil {
			t.Errorf("connected after %.20q", text)
		}
	}
}

func TestSendFile(t *testing.T) {
	ours, theirs := pair(t)
	got := make(chan string, 1)
	go func() {
		_, _ = io.WriteString(theirs, greeting)
		buf, oob := make([]byte, 4096), make([]byte, 128)
		for {
			n, oobn, _, _, err := theirs.ReadMsgUnix(buf, oob)
			if err != nil {
				return
			}
			var c command
			if json.Unmarshal(buf[:n], &c) != nil {
				return
			}
			if oobn > 0 {
				got <- received(oob[:oobn])
			}
			_, _ = fmt.Fprintf(theirs, `{"return": {}, "id": %d}`+"\n", c.ID)
		}
	}()
	c, err := New(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path, []byte("handed over"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := c.SendFile(t.Context(), "state", f); err != nil {
		t.Fatal(err)
	}
	if text := <-got; text != "handed over" {
		t.Errorf("the peer read %q", text)
	}
}

// received reads the file whose descriptor came with a message.
func received(oob []byte) string {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return fmt.Sprint(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Sprint(err)
	}
	f := os.NewFile(uintptr(fds[0]), "received")
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// FuzzPeer plays a QEMU that says anything.
func FuzzPeer(f *testing.F) {
	f.Add([]byte(`{"return": {}, "id": 1}` + "\n" + `{"return": {"status": "x"}, "id": 2}` + "\n"))
	f.Add([]byte(`{"event": "STOP", "id": 99}` + "\n" + `{"error": {}, "id": 1}`))
	f.Add([]byte("null\n[]\n{\"id\": -1}\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := pair(t)
		go func() {
			_, _ = theirs.Write(append([]byte(greeting), said...))
			_ = theirs.CloseWrite()
			_, _ = io.Copy(io.Discard, theirs)
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		c, err := New(ctx, ours)
		if err != nil {
			return
		}
		var status struct{ Status string }
		_ = c.Run(ctx, "query-status", nil, &status)
		_ = c.Close()
		<-c.Ended()
		if ctx.Err() != nil {
			t.Error("hung")
		}
	})
}
