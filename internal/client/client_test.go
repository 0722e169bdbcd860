package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/internal/server/access"
	"github.com/aethervm/aether/internal/server/rest"
	"github.com/aethervm/aether/sandbox"
)

// serve is a client of a real server, over a system in memory.
func serve(t *testing.T) (*Client, *httptest.Server) {
	t.Helper()
	driver := runtimetest.New("gvisor")
	rt, err := runtime.Open(t.Context(), runtime.Config{StateDir: filepath.Join(t.TempDir(), "state"), Drivers: []sandbox.Driver{driver},
		Images: &runtimetest.Images{}, DefaultImage: "base"})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(rest.Handler(rest.Config{Guard: access.Guard{Runtime: rt}}))
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	_, token, err := rt.CreateTenant(t.Context(), runtime.TenantSpec{Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(server.URL, WithToken(token))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, server
}

func create(t *testing.T, c *Client) string {
	t.Helper()
	sb, err := c.Create(t.Context(), rest.Spec{}, NewKey())
	if err != nil {
		t.Fatal(err)
	}
	return sb.ID
}

func TestExecStreams(t *testing.T) {
	c, _ := serve(t)
	id := create(t, c)
	in := strings.Repeat("\xff\x00 text\n", 100_000)
	var out, errs bytes.Buffer
	res, err := c.Exec(t.Context(), id, rest.Run{Shell: "cat; stderr oops; exit 9"}, Streams{strings.NewReader(in), &out, &errs})
	if err != nil || res.ExitCode == nil || *res.ExitCode != 9 || out.String() != in || errs.String() != "oops\n" {
		t.Errorf("%+v, %v; %d bytes of %d, %q", res, err, out.Len(), len(in), &errs)
	}
	// An input that never comes holds up nothing.
	never, write := io.Pipe()
	defer write.Close()
	if res, err = c.Exec(t.Context(), id, rest.Run{Shell: "exit 2"}, Streams{Stdin: never}); err != nil || *res.ExitCode != 2 {
		t.Errorf("%+v, %v", res, err)
	}
	if res, err = c.Exec(t.Context(), id, rest.Run{Args: []string{"cat"}}, Streams{}); err != nil || *res.ExitCode != 0 {
		t.Errorf("no input: %+v, %v", res, err)
	}
	_, err = c.Exec(t.Context(), "sbnone", rest.Run{Args: []string{"cat"}}, Streams{Stdin: never})
	if runtime.CodeOf(err) != runtime.CodeNotFound {
		t.Errorf("no sandbox: %v", err)
	}
}

// TestRefusedUpload is told what the server has refused, however much it has to send.
func TestRefusedUpload(t *testing.T) {
	c, _ := serve(t)
	for i := range 100 {
		for _, size := range []int{0, 10, 8 << 20} {
			in := strings.NewReader(strings.Repeat("x", size))
			if _, err := c.Exec(t.Context(), "sbnone", rest.Run{Args: []string{"cat"}}, Streams{Stdin: in}); runtime.CodeOf(err) != runtime.CodeNotFound {
				t.Fatalf("exec %d with %d bytes: %v", i, size, err)
			}
		}
	}
	if _, err := c.Upload(t.Context(), "sbnone", "/tmp/x", 0o644, strings.NewReader(strings.Repeat("x", 32<<20))); runtime.CodeOf(err) != runtime.CodeNotFound {
		t.Errorf("upload: %v", err)
	}
}

// TestExecEndsEarly has programs end while their input is still being sent.
func TestExecEndsEarly(t *testing.T) {
	c, _ := serve(t)
	id := create(t, c)
	for i := range 100 {
		for _, size := range []int{0, 10, 1 << 20} {
			in := strings.NewReader(strings.Repeat("x", size))
			if res, err := c.Exec(t.Context(), id, rest.Run{Shell: "exit 7"}, Streams{Stdin: in}); err != nil || *res.ExitCode != 7 {
				t.Fatalf("exec %d with %d bytes: %+v, %v", i, size, res, err)
			}
		}
	}
}

// TestExecIsEnded with the caller's context, also while the program waits for input.
func TestExecIsEnded(t *testing.T) {
	c, _ := serve(t)
	id := create(t, c)
	never, write := io.Pipe()
	defer write.Close()
	for _, run := range []rest.Run{{Args: []string{"cat"}}, {Args: []string{"sleep", "1000"}}} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := c.Exec(ctx, id, run, Streams{Stdin: never})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v: %v", run.Args, err)
		}
		cancel()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if sb, err := c.Sandbox(t.Context(), id); err != nil || sb.KillIn != nil { // nothing goes on in it
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%v goes on", run.Args)
			}
		}
	}
}

func TestFollowAndEvents(t *testing.T) {
	c, server := serve(t)
	id := create(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	types, begun := make(chan string, 64), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- c.Events(ctx, 0, func(e runtime.Event) error {
			if e.Type == "hello" {
				close(begun)
			}
			types <- string(e.Type)
			return nil
		})
	}()
	<-begun
	res, err := c.Run(t.Context(), id, rest.Run{Shell: "cat; exit 4", Background: true}, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WriteStdin(t.Context(), res.Process, []byte("fed\xff\xe2\x82"), true); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	p, err := c.Follow(t.Context(), res.Process, &out, io.Discard, nil)
	if err != nil || out.String() != "fed\xff\xe2\x82" || p.ExitCode == nil || *p.ExitCode != 4 {
		t.Errorf("%q, %+v, %v", &out, p, err)
	}
	for _, want := range []string{"hello", "process.started", "process.ended"} {
		if got := <-types; got != want {
			t.Errorf("event %s, want %s", got, want)
		}
	}
	server.CloseClientConnections()
	if err := <-ended; !errors.Is(err, errCut) {
		t.Errorf("the connection was cut: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	for _, address := range []string{"http://127.0.0.1:1", "unix:" + filepath.Join(t.TempDir(), "none")} {
		c, err := New(address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Whoami(t.Context()); !Unreachable(err) {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"", "ftp://x", "127.0.0.1:7070", "http://"} {
		if _, err := New(address); err == nil {
			t.Errorf("%q is an address", address)
		}
	}
	c, _ := serve(t)
	if _, err := c.Sandbox(t.Context(), "../whoami"); Unreachable(err) || runtime.CodeOf(err) != runtime.CodeNotFound {
		t.Errorf("an ID that is a path: %v", err)
	}
}

// FuzzEvents reads what a server sends.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("id: 1\nevent: stdout\ndata: {\"text\":\"a\"}\n\n: \n\nevent: result\ndata: {}\n\n"))
	f.Add([]byte("event: error\ndata: {\"code\":\"gone\",\"cause\":\"x\"}\n\n"))
	f.Add([]byte("data: a\ndata: b\n\n\n\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		n := 0
		err := readEvents(bytes.NewReader(raw), func(name string, data []byte) (bool, error) {
			n++
			return name == "result", writeChunk(io.Discard, data)
		})
		if err == nil && n == 0 {
			t.Error("nothing came, and it ended well")
		}
	})
}
