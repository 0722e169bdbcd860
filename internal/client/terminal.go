package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/coder/websocket"

	"github.com/aethervm/aether/internal/server/rest"
	"github.com/aethervm/aether/sandbox"
)

// TerminalStreams are those of whoever sits at a terminal.
type TerminalStreams struct {
	In  io.Reader // what is typed; nil is nothing, and its end at once
	Out io.Writer
	// Resize gives new sizes; nil is none.
	Resize <-chan sandbox.TerminalSize
	// Connected, if not nil, is called when the server has answered, before anything is read of In. An error ends it.
	Connected func() error
}

// terminalChunk is how much is sent in a message, in bytes; terminalLimit is how long one of the server's may be.
const (
	terminalChunk = 32 << 10
	terminalLimit = 1 << 20
)

// Terminal runs a program on a terminal. When ctx ends the program is killed, with all that it has started. It may return
// before a blocked Read of In does.
func (c *Client) Terminal(ctx context.Context, id string, run rest.Run, streams TerminalStreams) (res rest.ExecResult, err error) {
	raw, err := json.Marshal(run)
	if err != nil {
		return res, err
	}
	end, err := c.socket(ctx, path("sandboxes", id, "terminal"), nil, raw, streams, nil)
	if err == nil && end.Result == nil {
		err = errCut
	}
	if err != nil {
		return res, err
	}
	return *end.Result, nil
}

// AttachTerminal connects to the terminal of a background process until that ends. When ctx ends the process goes on.
// It may return before a blocked Read of In does. skipped is told of bytes that are not kept.
func (c *Client) AttachTerminal(ctx context.Context, process string, from int64, streams TerminalStreams, skipped func(bytes int64)) (p rest.Process, err error) {
	end, err := c.socket(ctx, path("processes", process, "terminal"), url.Values{"stdout": {strconv.FormatInt(from, 10)}}, nil, streams, skipped)
	if err == nil && end.Process == nil {
		err = errCut
	}
	if err != nil {
		return p, err
	}
	return *end.Process, nil
}

// socket serves the streams over a websocket until its last message, which it returns. first, if it is not nil, is sent
// first.
func (c *Client) socket(ctx context.Context, path string, query url.Values, first []byte, streams TerminalStreams, skipped func(int64)) (end rest.TerminalEvent, err error) {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	//nolint:bodyclose // the library gives a body that is read already, and closes none that it keeps
	conn, res, err := websocket.Dial(ctx, c.base+path, &websocket.DialOptions{HTTPClient: c.http, HTTPHeader: c.header.Clone(), Subprotocols: []string{rest.TerminalProtocol}})
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return end, cause
		}
		return end, refusal(res, path, err)
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(terminalLimit)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if first != nil {
		if err := conn.Write(ctx, websocket.MessageText, first); err != nil {
			return end, cause(ctx, err)
		}
	}
	if streams.Connected != nil {
		if err := streams.Connected(); err != nil {
			return end, err
		}
	}
	go sendSizes(ctx, conn, streams.Resize)
	go sendKeys(ctx, conn, streams.In)
	for {
		kind, data, err := conn.Read(ctx)
		if err != nil {
			return end, cause(ctx, fmt.Errorf("%w: %w", errCut, err))
		}
		if kind == websocket.MessageBinary {
			if streams.Out != nil {
				if _, err := streams.Out.Write(data); err != nil {
					return end, err
				}
			}
			continue
		}
		if err := json.Unmarshal(data, &end); err != nil {
			return end, fmt.Errorf("%s: read the answer: %w", path, err)
		}
		switch {
		case end.Type == "error" && end.Problem != nil:
			_ = conn.Close(websocket.StatusNormalClosure, "")
			return end, problemError(*end.Problem)
		case end.Type == "skipped":
			if skipped != nil {
				skipped(end.Bytes)
			}
		default:
			_ = conn.Close(websocket.StatusNormalClosure, "")
			return end, nil
		}
	}
}

// refusal is why there is no websocket. The answer's body is there, as far as the library has read it.
func refusal(res *http.Response, path string, err error) error {
	if res == nil || res.Body == nil {
		return err
	}
	if raw, readErr := io.ReadAll(io.LimitReader(res.Body, maxAnswer)); readErr == nil {
		if problem := problemIn(raw); problem != nil {
			return problem
		}
	}
	return fmt.Errorf("GET %s: %w", path, err)
}

func sendSizes(ctx context.Context, conn *websocket.Conn, sizes <-chan sandbox.TerminalSize) {
	for {
		select {
		case size, more := <-sizes:
			if !more || sendText(ctx, conn, rest.TerminalMessage{Type: "resize", Rows: size.Rows, Cols: size.Cols}) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func sendKeys(ctx context.Context, conn *websocket.Conn, in io.Reader) {
	buf := make([]byte, terminalChunk)
	for in != nil {
		n, err := in.Read(buf)
		if n > 0 && conn.Write(ctx, websocket.MessageBinary, buf[:n]) != nil {
			return
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return
		}
	}
	_ = sendText(ctx, conn, rest.TerminalMessage{Type: "end"}) // the program may have ended
}

func sendText(ctx context.Context, conn *websocket.Conn, m rest.TerminalMessage) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return conn.Write(ctx, websocket.MessageText, raw)
}
