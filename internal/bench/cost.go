package bench

import (
	"fmt"
	"sync"

	"github.com/tiktoken-go/tokenizer/codec"

	"github.com/aethervm/aether/sandbox"
)

// meter collects the control-plane calls that a driver reports.
type meter struct {
	mu    sync.Mutex
	calls []sandbox.Call
}

func (m *meter) observe(c sandbox.Call) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, c)
}

// cost sums up the calls up to now.
func (m *meter) cost() (Cost, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := Cost{Calls: len(m.calls)}
	for _, call := range m.calls {
		c.WireBytes += call.Sent + call.Received
		if call.Sent > 0 && call.Request == "" || call.Received > 0 && call.Reply == "" {
			c.Textless++
		}
		for _, text := range []string{call.Request, call.Reply} {
			n, err := countTokens(text)
			if err != nil {
				return c, err
			}
			c.Tokens += n
		}
	}
	return c, nil
}

// native is the calls as they are stored, texts cut to what a person will read.
func (m *meter) native() []NativeCall {
	const limit = 4 << 10
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []NativeCall
	for _, c := range m.calls {
		out = append(out, NativeCall{
			Plane: c.Plane, Op: c.Op,
			Request: c.Request[:min(limit, len(c.Request))], Reply: c.Reply[:min(limit, len(c.Reply))],
		})
	}
	return out
}

// o200k is the vocabulary of current large models; it is compiled in, nothing is fetched. It takes
// a moment and some memory to set up, so that is done when the first text comes.
var o200k = sync.OnceValue(codec.NewO200kBase)

// countTokens is how many o200k_base tokens text has. Counting does not depend on what is valid
// UTF-8: other bytes are tokens as well.
func countTokens(text string) (int, error) {
	n, err := o200k().Count(text)
	if err != nil {
		return 0, fmt.Errorf("count tokens: %w", err)
	}
	return n, nil
}

func (c Cost) plus(d Cost) Cost {
	return Cost{c.Calls + d.Calls, c.WireBytes + d.WireBytes, c.Tokens + d.Tokens, c.Textless + d.Textless}
}
