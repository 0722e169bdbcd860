package runtime

import "sync"

// hold keeps an image for as long as several want it.
type hold struct {
	mu   sync.Mutex
	refs int
	free func()
}

func newHold(free func()) *hold { return &hold{refs: 1, free: free} }

// share is the same hold, to be released once more.
func (h *hold) share() *hold {
	if h != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.refs++
	}
	return h
}

func (h *hold) release() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refs--; h.refs == 0 && h.free != nil {
		h.free()
	}
}
