package mcp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"sync"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// parseError answers a line that is no JSON, which has no ID that could be told.
const parseError = `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"the line is no JSON; a message is one line of it"}}` + "\n"

// jsonLines passes on lines that are JSON, and has each of the others refused. The SDK would end the session at the first one,
// and with it what is in progress. A line that is longer than the SDK takes is passed on as it is, for it to refuse.
type jsonLines struct {
	from   *bufio.Reader
	refuse func() error

	line []byte // what is left of the last one
	err  error  // what follows it
	raw  bool   // the rest of a line that is too long is passed on unread
}

func newJSONLines(from io.Reader, refuse func() error) *jsonLines {
	return &jsonLines{from: bufio.NewReaderSize(from, 64<<10), refuse: refuse}
}

func (l *jsonLines) Read(p []byte) (int, error) {
	for len(l.line) == 0 {
		if l.err != nil {
			return 0, l.err
		}
		if l.raw {
			return l.from.Read(p)
		}
		if err := l.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, l.line)
	l.line = l.line[n:]
	return n, nil
}

// next reads a line. It leaves none if there is nothing in it, or it was refused.
func (l *jsonLines) next() error {
	var line []byte
	for {
		part, err := l.from.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > sdk.DefaultMaxLineLength {
			l.line, l.raw = line, true
			return nil
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		l.err = err
		break
	}
	switch text := bytes.TrimSpace(line); {
	case len(text) == 0:
		return nil
	case !json.Valid(text):
		return l.refuse()
	}
	l.line = line
	return nil
}

// wholeWriter keeps what is written by one call of Write together.
type wholeWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (w *wholeWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}
