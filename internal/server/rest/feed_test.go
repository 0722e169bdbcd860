package rest

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
	"time"
)

// following is a stream of events that is read as it comes.
type following struct {
	events chan event
	close  func()
}

func (s *site) follow(t *testing.T, last string) *following {
	t.Helper()
	req := s.request(t, "GET", "/v1/events", nil)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	res, err := http.DefaultClient.Do(req) //nolint:bodyclose // whoever reads it closes it
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != eventStream {
		t.Fatalf("%s %v", res.Status, res.Header)
	}
	f := &following{events: make(chan event, 64), close: func() { _ = res.Body.Close() }}
	go func() {
		defer close(f.events)
		defer func() { _ = res.Body.Close() }()
		var block []string
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			if lines.Text() != "" {
				block = append(block, lines.Text())
				continue
			}
			if e, ok := parseEvent(strings.Join(block, "\n")); ok {
				f.events <- e
			}
			block = nil
		}
	}()
	return f
}

func (f *following) next(t *testing.T) event {
	t.Helper()
	select {
	case e, ok := <-f.events:
		if !ok {
			t.Fatal("the stream has ended")
		}
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("there is no event")
	}
	return event{}
}

// TestFeedEnds when the runtime does, so that a server can.
func TestFeedEnds(t *testing.T) {
	s := serve(t, nil)
	feed := s.follow(t, "")
	defer feed.close()
	feed.next(t)
	if err := s.rt.Close(); err != nil {
		t.Fatal(err)
	}
	for {
		e := feed.next(t)
		if e.name == "error" {
			if !strings.Contains(e.data, `"unavailable"`) {
				t.Errorf("it ended with %s", e.data)
			}
			return
		}
	}
}

func FuzzCursor(f *testing.F) {
	c := newCursors()
	f.Add(c.seal("a", "b", "c"))
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, cursor string) {
		if position, err := c.open("a", "b", cursor); err == nil && position != "c" {
			t.Errorf("%q is a cursor for %q", cursor, position)
		}
	})
}
