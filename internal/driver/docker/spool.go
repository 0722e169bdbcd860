package docker

import (
	"bytes"
	"sync"
	"time"
)

// The engine gives a program's output two seconds from the program's end to be read, and then drops
// what is left. A caller that reads slowly would lose the end of the output and not notice. So the
// output passes a spool: it holds little while the program runs, which lets a slow caller slow the
// program down, and once the program has ended, everything that is still inside the engine, which is
// a pipe, a FIFO and a buffer of a megabyte.
const (
	spoolRunning = 256 << 10
	spoolEnded   = 8 << 20
)

// spool is a bounded buffer between one writer and one reader. It may be used concurrently.
type spool struct {
	mu      sync.Mutex
	changed sync.Cond
	buf     bytes.Buffer
	limit   int
	err     error     // of the writer's source, once it has ended
	left    bool      // the reader is gone
	blocked time.Time // since when the writer waits; zero if it does not
}

func newSpool() *spool {
	s := &spool{limit: spoolRunning}
	s.changed.L = &s.mu
	return s
}

// Write waits for room. It never fails: when the reader has left, data is discarded.
func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.buf.Len() >= s.limit && !s.left {
		if s.blocked.IsZero() {
			s.blocked = time.Now()
		}
		s.changed.Wait()
	}
	s.blocked = time.Time{}
	if !s.left {
		s.buf.Write(p)
		s.changed.Broadcast()
	}
	return len(p), nil
}

// Read waits for data or for the end.
func (s *spool) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.buf.Len() == 0 && s.err == nil {
		s.changed.Wait()
	}
	if s.buf.Len() == 0 {
		return 0, s.err
	}
	n, err := s.buf.Read(p)
	s.changed.Broadcast()
	return n, err
}

// end tells the reader that nothing follows, and why: io.EOF or an error.
func (s *spool) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	s.changed.Broadcast()
}

// leave tells the writer that nobody reads any more.
func (s *spool) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = true
	s.changed.Broadcast()
}

// widen makes room for what is left in the engine.
func (s *spool) widen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = spoolEnded
	s.changed.Broadcast()
}

// stalled tells whether the writer has been waiting for at least d.
func (s *spool) stalled(d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.blocked.IsZero() && time.Since(s.blocked) >= d
}
