package runtime

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"
)

// buffer keeps a stream: all of it up to a limit, then its first eighth and its end. Its methods may
// be called concurrently.
type buffer struct {
	limit int

	mu    sync.Mutex
	head  []byte // up to limit/8 once the limit is exceeded
	tail  []byte // what follows; a ring once it is full
	start int    // of the ring: where the oldest byte is
	total int64
	ended bool
	more  chan struct{} // closed when something arrives or the stream ends; nil if nobody waits
}

func newBuffer(limit int) *buffer { return &buffer{limit: max(limit, 64)} }

func (b *buffer) headSize() int { return b.limit / 8 }
func (b *buffer) tailSize() int { return b.limit - b.headSize() }

// Write never fails.
func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(p)
	b.total += int64(n)
	if room := b.headSize() - len(b.head); room > 0 {
		take := min(room, len(p))
		b.head = append(b.head, p[:take]...)
		p = p[take:]
	}
	if len(p) > b.tailSize() {
		p = p[len(p)-b.tailSize():]
	}
	if room := b.tailSize() - len(b.tail); room > 0 {
		take := min(room, len(p))
		b.tail = append(b.tail, p[:take]...)
		p = p[take:]
	}
	for len(p) > 0 {
		took := copy(b.tail[b.start:], p)
		b.start = (b.start + took) % len(b.tail)
		p = p[took:]
	}
	b.wake()
	return n, nil
}

// wake tells those who wait. The caller holds mu.
func (b *buffer) wake() {
	if b.more != nil {
		close(b.more)
		b.more = nil
	}
}

// end says that nothing follows.
func (b *buffer) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.wake()
}

// after returns a channel that is closed when there is more than offset, or the end; nil if there is.
func (b *buffer) after(offset int64) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || b.total > offset {
		return nil
	}
	if b.more == nil {
		b.more = make(chan struct{})
	}
	return b.more
}

func (b *buffer) size() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total
}

func (b *buffer) held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.head) + len(b.tail)
}

// read returns up to size bytes from offset, which is clamped to what there is; negative counts from
// the end. skipped bytes at offset were dropped, and what is returned follows them.
func (b *buffer) read(offset int64, size int) (data []byte, at, skipped, total int64, ended bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if offset < 0 {
		offset = max(0, b.total+offset)
	}
	offset = min(offset, b.total)
	tailAt := b.total - int64(len(b.tail))
	if head := int64(len(b.head)); offset < head {
		data = append(data, b.head[offset:min(head, offset+int64(size))]...)
		if tailAt > head || len(data) == size { // a gap follows, or enough
			return data, offset, 0, b.total, b.ended
		}
		size -= len(data)
		return append(data, b.fromTail(0, size)...), offset, 0, b.total, b.ended
	}
	if offset < tailAt {
		skipped = tailAt - offset
		offset = tailAt
	}
	return b.fromTail(int(offset-tailAt), size), offset, skipped, b.total, b.ended
}

// fromTail copies from the ring. The caller holds mu.
func (b *buffer) fromTail(from, size int) []byte {
	size = min(size, len(b.tail)-from)
	if size <= 0 {
		return nil
	}
	out := make([]byte, 0, size)
	at := (b.start + from) % len(b.tail)
	first := min(size, len(b.tail)-at)
	out = append(out, b.tail[at:at+first]...)
	return append(out, b.tail[:size-first]...)
}

// shown is the stream as a result shows it: whole, or head and tail with a line between them that
// says what is left out and how to get it. handle is called if something is.
func (b *buffer) shown(limit int, stream Stream, handle func() string) (text string, cut bool) {
	total := b.size()
	if total <= int64(limit) {
		data, _, _, _, _ := b.read(0, limit)
		return validText(string(data)), false
	}
	head, _, _, _, _ := b.read(0, limit/2)
	tail, tailAt, _, _, _ := b.read(-int64(limit-limit/2), limit)
	// Cut at ends of lines, if there are any near.
	if i := bytes.LastIndexByte(head, '\n'); i > len(head)/2 {
		head = head[:i+1]
	}
	if i := bytes.IndexByte(tail, '\n'); i >= 0 && i < len(tail)/2 {
		tail, tailAt = tail[i+1:], tailAt+int64(i)+1
	}
	head, tail = wholeRunes(head), fromRune(tail)
	left := fmt.Sprintf("[%d of %d bytes left out; output %s has them, %s from offset %d]",
		tailAt-int64(len(head)), total, handle(), stream, len(head))
	sep := "\n"
	if bytes.HasSuffix(head, []byte("\n")) {
		sep = ""
	}
	return validText(string(head)) + sep + left + "\n" + validText(string(tail)), true
}

// wholeRunes cuts off the beginning of a character at the end.
func wholeRunes(p []byte) []byte {
	for i := 1; i < utf8.UTFMax && i <= len(p); i++ {
		if c := p[len(p)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(p[len(p)-i:]) {
				return p[:len(p)-i]
			}
			break
		}
	}
	return p
}

// fromRune cuts off the end of a character at the beginning.
func fromRune(p []byte) []byte {
	for i := 0; i < min(utf8.UTFMax-1, len(p)); i++ {
		if utf8.RuneStart(p[i]) {
			return p[i:]
		}
	}
	return p
}

func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// chunk is a piece of a stream from offset, as a caller gets it. A character that is not there yet as
// a whole is left for the next one.
func (b *buffer) chunk(offset int64, limit int) OutputChunk {
	data, at, skipped, total, ended := b.read(offset, limit)
	if at > 0 && skipped > 0 || offset < 0 {
		cut := fromRune(data)
		at += int64(len(data) - len(cut))
		data = cut
	}
	if whole := wholeRunes(data); len(whole) > 0 && (!ended || at+int64(len(data)) < total) {
		data = whole
	}
	c := OutputChunk{Offset: at, Next: at + int64(len(data)), Skipped: skipped, Total: total}
	c.Text, c.Encoding = textOf(data)
	c.End = ended && c.Next == total
	return c
}

// textOf is data as a text: as it is if it is UTF-8 without NUL bytes, else base64.
func textOf(data []byte) (text, encoding string) {
	if utf8.Valid(data) && !bytes.Contains(data, []byte{0}) {
		return string(data), ""
	}
	return base64.StdEncoding.EncodeToString(data), "base64"
}

// output is what a program wrote.
type output struct {
	id             string
	stdout, stderr *buffer
}

func newOutput(id string, limit int) *output {
	return &output{id: id, stdout: newBuffer(limit), stderr: newBuffer(limit)}
}

func (o *output) stream(name Stream) *buffer {
	switch name {
	case Stdout, "":
		return o.stdout
	case Stderr:
		return o.stderr
	}
	return nil
}

func (o *output) end() {
	o.stdout.end()
	o.stderr.end()
}

// held is how many bytes are kept.
func (o *output) held() int { return o.stdout.held() + o.stderr.held() }

// outputs are those of a session that may be read by range. The session's mutex guards them.
type outputs struct {
	limit int // how many ended ones are kept
	size  int // and how many bytes of them
	kept  map[string]*output
	order []string // ended ones, oldest first
	held  int      // bytes that they have
}

func (o *outputs) init(limit, size int) {
	o.limit, o.size, o.kept = limit, size, map[string]*output{}
}

// keep adds an output. It may be forgotten only once it was retired.
func (o *outputs) keep(out *output) { o.kept[out.id] = out }

// retire says that an output is at its end, and returns those that are forgotten for it.
func (o *outputs) retire(id string) (forgotten []string) {
	o.order = append(o.order, id)
	o.held += o.kept[id].held()
	for len(o.order) > o.limit || o.held > o.size && len(o.order) > 1 {
		oldest := o.order[0]
		o.held -= o.kept[oldest].held()
		delete(o.kept, oldest)
		forgotten = append(forgotten, oldest)
		o.order = o.order[1:]
	}
	return forgotten
}

// Output reads what a program wrote, by range: of a result that was truncated, or of a process.
func (s *Session) Output(ctx context.Context, req OutputRequest) (chunk OutputChunk, err error) {
	_, c, err := s.call(ctx, "output", "", CanRead)
	c.quiet = true
	defer c.end(&err)
	if err != nil {
		return chunk, err
	}
	s.mu.Lock()
	out := s.outputs.kept[req.Output]
	s.mu.Unlock()
	if out == nil {
		return chunk, refuse(CodeNotFound, c.op, fmt.Sprintf("run it again; the last %d outputs are kept", s.r.limits.OutputsKept),
			"there is no output %q in this session", clip(req.Output, 64))
	}
	b := out.stream(req.Stream)
	if b == nil {
		return chunk, refuse(CodeInvalid, c.op, "use stdout or stderr", "there is no stream %q", clip(string(req.Stream), 64))
	}
	return b.chunk(req.Offset, s.r.shownSize(req.Max)), nil
}

// shownSize is how many bytes of output a caller gets who asks for n.
func (r *Runtime) shownSize(n int) int {
	if n <= 0 || n > r.limits.OutputShown {
		return r.limits.OutputShown
	}
	return max(n, utf8.UTFMax) // or a character would never fit
}
