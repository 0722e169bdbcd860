package serve

import (
	"io"
	"sync"

	"github.com/aethervm/aether/internal/agentproto"
)

// inputBuffer holds input between the connection and the program, at most the window that the host
// was given, so that taking a frame off the connection never waits for the program.
type inputBuffer struct {
	mu      sync.Mutex
	changed sync.Cond
	chunks  [][]byte // arrived, not yet taken
	size    int      // bytes in chunks, and in those taken but not yet passed on
	free    [][]byte // chunks to be used again
	ended   bool     // nothing will be added
	stopped bool     // nothing will be taken
}

func newInputBuffer() *inputBuffer {
	b := &inputBuffer{}
	b.changed.L = &b.mu
	return b
}

// add copies p. It reports false if the host sent more than it may.
func (b *inputBuffer) add(p []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return true
	}
	if b.ended || b.size+len(p) > agentproto.InputWindow {
		return false
	}
	var chunk []byte
	if n := len(b.free); n > 0 {
		chunk, b.free = b.free[n-1], b.free[:n-1]
	}
	b.chunks = append(b.chunks, append(chunk[:0], p...))
	b.size += len(p)
	b.changed.Signal()
	return true
}

// end tells that nothing more will be added.
func (b *inputBuffer) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.changed.Signal()
}

// stop tells that nothing more will be taken.
func (b *inputBuffer) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
	b.chunks, b.free, b.size = nil, nil, 0
	b.changed.Signal()
}

// take waits for input and returns some; nil at the end. The result is valid until passed is called
// with it.
func (b *inputBuffer) take() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.chunks) == 0 && !b.ended && !b.stopped {
		b.changed.Wait()
	}
	if b.stopped || len(b.chunks) == 0 {
		return nil
	}
	chunk := b.chunks[0]
	b.chunks = b.chunks[1:]
	return chunk
}

// atEnd tells whether all that was to come was taken.
func (b *inputBuffer) atEnd() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended && !b.stopped
}

// passed makes room for what take returned. It is called before the host is told about the room.
func (b *inputBuffer) passed(chunk []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopped {
		b.size -= len(chunk)
		b.free = append(b.free, chunk)
	}
}

// passInput passes input on to w until it ends, is stopped, or w takes no more, and tells the host how much room there is
// again. When the host is gone it calls cutOff.
func (c *conn) passInput(b *inputBuffer, w io.Writer, cutOff func()) {
	var owed credit
	for {
		data := b.take()
		if data == nil {
			return
		}
		if _, err := w.Write(data); err != nil {
			// Nobody reads any more. What is on its way is dropped by add.
			b.stop()
			_ = c.write(agentproto.KindInputClosed, nil)
			return
		}
		size := len(data)
		b.passed(data)
		if owed.give(c, size) != nil {
			cutOff()
		}
	}
}
