package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
)

func newServer(t *testing.T) *sdk.Server {
	t.Helper()
	rt, _ := newRuntime(t, runtime.Limits{})
	session := localSession(t, rt)
	return New(Config{Version: "test", Runtime: rt, Session: func(context.Context, *sdk.RequestExtra) (*runtime.Session, error) {
		return session, nil
	}})
}

const handshake = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}
{"jsonrpc":"2.0","method":"notifications/initialized"}
`

func runRequest(command string) string {
	return `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"run","arguments":{"command":"` + command + `"}}}` + "\n"
}

// TestStdioAnswersBeforeTheEnd pipes requests in, as a script does.
func TestStdioAnswersBeforeTheEnd(t *testing.T) {
	var out bytes.Buffer
	err := ServeStdio(t.Context(), newServer(t), strings.NewReader(handshake+runRequest("sleep 0.3; echo done")), &out)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(out.String(), "\n"); lines != 2 || !strings.Contains(out.String(), `"stdout":"done\n"`) {
		t.Errorf("%d lines: %s", lines, out.String())
	}
}

// TestStdioEndsWithItsContext has a call in progress that would take long.
func TestStdioEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	in, feed := io.Pipe()
	defer func() { _ = feed.Close() }()
	go func() { _, _ = io.WriteString(feed, handshake+runRequest("sleep 60")) }()
	stop := errors.New("a signal")
	time.AfterFunc(300*time.Millisecond, func() { cancel(stop) })
	begun := time.Now()
	if err := ServeStdio(ctx, newServer(t), in, io.Discard); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	if took := time.Since(begun); took > lastCalls/2 {
		t.Errorf("it took %v", took)
	}
}

// TestStdioRefusesLines has lines that are no messages among those that are.
func TestStdioRefusesLines(t *testing.T) {
	var out bytes.Buffer
	in := "not json\n" + strings.Replace(handshake, "\n", "\r\n\n{\"half\":\n", 1) + "\x00\xff\n" + runRequest("echo done") + "the end"
	if err := ServeStdio(t.Context(), newServer(t), strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), parseError); n != 4 || !strings.Contains(out.String(), `"stdout":"done\n"`) {
		t.Errorf("%d lines refused: %s", n, out.String())
	}
}

func FuzzJSONLines(f *testing.F) {
	f.Add([]byte("{}\nx\n[1,\n2]\n\n{\"a\":1}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		refused := 0
		out, err := io.ReadAll(newJSONLines(iotest.OneByteReader(bytes.NewReader(in)), func() error {
			refused++
			return nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		passed := 0
		for line := range bytes.SplitSeq(out, []byte("\n")) {
			if text := bytes.TrimSpace(line); len(text) > 0 {
				passed++
				if !json.Valid(text) {
					t.Errorf("passed on: %q", line)
				}
			}
		}
		lines := 0
		for line := range bytes.SplitSeq(in, []byte("\n")) {
			if len(bytes.TrimSpace(line)) > 0 {
				lines++
			}
		}
		if lines != passed+refused {
			t.Errorf("%d lines, %d passed on, %d refused", lines, passed, refused)
		}
	})
}

func TestStdioSurvivesGarbage(t *testing.T) {
	for _, garbage := range []string{"not json\n", "{}\n", "[]\n", "\x00\xff\n", `{"jsonrpc":"2.0","id":9,"method":"tools/call","params":[]}` + "\n"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := ServeStdio(ctx, newServer(t), strings.NewReader(garbage), io.Discard)
		if ctx.Err() != nil {
			t.Errorf("%q: it hangs: %v", garbage, err)
		}
		cancel()
	}
}
