package rest

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aethervm/aether/internal/repeat"
	"github.com/aethervm/aether/internal/runtime"
)

const (
	eventStream = "text/event-stream"
	// heartbeat is how often something is sent where nothing happens, so that an end of the connection shows, on
	// both sides.
	heartbeat = 15 * time.Second
)

// events writes server-sent events. Its methods may be called concurrently.
type events struct {
	mu  sync.Mutex
	w   http.ResponseWriter
	rc  *http.ResponseController
	err error // the connection is gone
}

// newEvents begins the answer.
func newEvents(w http.ResponseWriter) *events {
	h := w.Header()
	h.Set("Content-Type", eventStream)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // a proxy is to pass on what comes as it comes
	w.WriteHeader(http.StatusOK)
	e := &events{w: w, rc: http.NewResponseController(w)}
	e.err = e.rc.Flush()
	return e
}

// send sends one event. data is written as JSON, which has no line break. id 0 is none.
func (e *events) send(name string, id int64, data any) error {
	raw, err := json.Marshal(data)
	if err != nil {
		return err
	}
	b := make([]byte, 0, len(raw)+64)
	if id != 0 {
		b = append(strconv.AppendInt(append(b, "id: "...), id, 10), '\n')
	}
	b = append(append(append(b, "event: "...), name...), "\ndata: "...)
	b = append(append(b, raw...), "\n\n"...)
	return e.write(b)
}

func (e *events) write(b []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		if _, e.err = e.w.Write(b); e.err == nil {
			e.err = e.rc.Flush()
		}
	}
	return e.err
}

// beat sends a comment every so often until the function that it returns is called. When the connection is gone, it calls
// gone, which may be nil.
func (e *events) beat(gone func()) (stop func()) { return e.every(heartbeat, gone, nil) }

// beatWhile is beat; besides, it calls gone when check, which it asks as often, has an error.
func (e *events) beatWhile(check func() error, gone func()) (stop func()) {
	return e.every(heartbeat, gone, check)
}

func (e *events) every(d time.Duration, gone func(), check func() error) (stop func()) {
	return repeat.Every(d, func() bool {
		there := (check == nil || check() == nil) && e.write([]byte(": \n\n")) == nil
		if !there && gone != nil {
			gone()
		}
		return there
	})
}

// Chunk is a piece of output, as an event has it.
type Chunk struct {
	Text     string `json:"text"`
	Encoding string `json:"encoding,omitempty" enum:"base64" doc:"none for UTF-8"`
}

func chunkOf(data []byte) Chunk {
	if utf8.Valid(data) {
		return Chunk{Text: string(data)}
	}
	return Chunk{base64.StdEncoding.EncodeToString(data), "base64"}
}

// output sends a piece of output.
func (e *events) output(stream runtime.Stream, data []byte) error {
	return e.send(string(stream), 0, chunkOf(data))
}

// end sends how it ended.
func (e *events) end(result any, err error) {
	if err != nil {
		_ = e.send("error", 0, problem(err)) // the client may be gone
		return
	}
	_ = e.send("result", 0, result)
}

// streamWriter sends what is written to it as events.
type streamWriter struct {
	e      *events
	stream runtime.Stream
}

func (w streamWriter) Write(p []byte) (int, error) {
	if err := w.e.output(w.stream, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// eventContent describes a stream of events. What each has as data is in words: the description has no form for it.
func eventContent(words string) *huma.MediaType {
	return &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Description: "server-sent events: " + words}}
}
