package client

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
)

// maxEvent bounds one event, in bytes.
const maxEvent = 16 << 20

// errCut says that a stream ended without the event that ends it.
var errCut = errors.New("the connection ended before the answer did: the server was stopped, or the network failed")

// Streams are those of a program that is run.
type Streams struct {
	Stdin          io.Reader // nil is an empty one
	Stdout, Stderr io.Writer
}

// Exec runs a program with streams in both directions. When ctx ends the program is killed, with all that it has
// started. It may return before a blocked Read of Stdin does.
func (c *Client) Exec(ctx context.Context, id string, run rest.Run, io3 Streams) (res rest.ExecResult, err error) {
	raw, err := json.Marshal(run)
	if err != nil {
		return res, err
	}
	from, to := io.Pipe()
	parts := multipart.NewWriter(to)
	req, err := c.request(ctx, http.MethodPost, path("sandboxes", id, "exec"), nil, io.Reader(from))
	if err != nil {
		return res, err
	}
	req.Header.Set("Content-Type", parts.FormDataContentType())
	go func() { _ = to.CloseWithError(sendParts(parts, raw, io3.Stdin)) }()
	defer func() { _ = from.Close() }() // what is still to be sent nobody waits for
	answer, err := c.send(req)
	if err != nil {
		return res, err
	}
	defer func() { _ = answer.Body.Close() }()
	err = readEvents(answer.Body, func(name string, data []byte) (done bool, err error) {
		switch name {
		case "result":
			return true, json.Unmarshal(data, &res)
		case string(runtime.Stdout):
			return false, writeChunk(io3.Stdout, data)
		case string(runtime.Stderr):
			return false, writeChunk(io3.Stderr, data)
		}
		return false, nil
	})
	return res, cause(ctx, err)
}

// cause is why a stream ended: that the caller ended it says more than what the connection makes of it.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func sendParts(parts *multipart.Writer, request []byte, stdin io.Reader) error {
	header := textproto.MIMEHeader{"Content-Disposition": {`form-data; name="request"`}, "Content-Type": {"application/json"}}
	w, err := parts.CreatePart(header)
	if err == nil {
		_, err = w.Write(request)
	}
	if err != nil {
		return err
	}
	header = textproto.MIMEHeader{"Content-Disposition": {`form-data; name="stdin"; filename="stdin"`}, "Content-Type": {"application/octet-stream"}}
	if w, err = parts.CreatePart(header); err != nil {
		return err
	}
	if stdin != nil {
		if _, err := io.Copy(w, stdin); err != nil {
			return err
		}
	}
	return parts.Close()
}

// Follow copies what a process writes, from the beginning of what is kept, to the writers until it ends. skipped is
// told of bytes that are not kept.
func (c *Client) Follow(ctx context.Context, process string, stdout, stderr io.Writer, skipped func(rest.Skipped)) (p rest.Process, err error) {
	req, err := c.request(ctx, http.MethodGet, path("processes", process, "stream"), nil, nil)
	if err != nil {
		return p, err
	}
	res, err := c.send(req)
	if err != nil {
		return p, err
	}
	defer func() { _ = res.Body.Close() }()
	err = readEvents(res.Body, func(name string, data []byte) (done bool, err error) {
		switch name {
		case "result":
			return true, json.Unmarshal(data, &p)
		case string(runtime.Stdout):
			return false, writeChunk(stdout, data)
		case string(runtime.Stderr):
			return false, writeChunk(stderr, data)
		case "skipped":
			var s rest.Skipped
			err := json.Unmarshal(data, &s)
			skipped(s)
			return false, err
		}
		return false, nil
	})
	return p, cause(ctx, err)
}

// Events tells each what happens to the tenant's things, after the event with number last, or from now on if that is 0.
// It returns when ctx ends, tell fails, or the server stops.
func (c *Client) Events(ctx context.Context, last int64, tell func(runtime.Event) error) error {
	req, err := c.request(ctx, http.MethodGet, path("events"), url.Values{}, nil)
	if err != nil {
		return err
	}
	if last > 0 {
		req.Header.Set("Last-Event-ID", strconv.FormatInt(last, 10))
	}
	res, err := c.send(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	return cause(ctx, readEvents(res.Body, func(_ string, data []byte) (bool, error) {
		var e runtime.Event
		if err := json.Unmarshal(data, &e); err != nil {
			return false, err
		}
		return false, tell(e)
	}))
}

func writeChunk(w io.Writer, data []byte) error {
	var c rest.Chunk
	if err := json.Unmarshal(data, &c); err != nil {
		return err
	}
	out := []byte(c.Text)
	if c.Encoding == "base64" {
		var err error
		if out, err = base64.StdEncoding.DecodeString(c.Text); err != nil {
			return err
		}
	}
	if w == nil {
		return nil
	}
	_, err := w.Write(out)
	return err
}

// readEvents reads server-sent events until take says that it was the last. An event "error" is an error.
func readEvents(r io.Reader, take func(name string, data []byte) (done bool, err error)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxEvent)
	name, data, has := "", []byte(nil), false
	for lines.Scan() {
		line := lines.Text()
		switch field, value, _ := strings.Cut(line, ":"); {
		case line == "":
			if has {
				if name == "error" {
					return eventError(data)
				}
				done, err := take(name, data)
				if done || err != nil {
					return err
				}
			}
			name, data, has = "", nil, false
		case field == "event":
			name = strings.TrimPrefix(value, " ")
		case field == "data":
			data, has = append(data, strings.TrimPrefix(value, " ")...), true
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: %w", errCut, err)
	}
	return errCut
}

func eventError(data []byte) error {
	if problem := problemIn(data); problem != nil {
		return problem
	}
	return errors.New("the server sent an error that is none of aether's")
}
