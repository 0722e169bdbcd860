package rest

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/runtime"
)

// lastWrite is how long a client has to take what is sent to it when the runtime has ended its call.
const lastWrite = 2 * time.Second

// ending has an answer that is written within a call of the runtime fail when the call was ended and the client takes
// nothing: the call, and whoever has ended it, would wait for that client.
type ending struct {
	mu         sync.Mutex
	rc         *http.ResponseController
	over, hard bool
}

// endable is ctx for a call that writes to w. The function that it returns must be called before the handler returns.
func endable(ctx context.Context, w http.ResponseWriter) (context.Context, func()) {
	e := &ending{rc: http.NewResponseController(w)}
	return runtime.OnEnd(ctx, e.end), e.stop
}

func (e *ending) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.over { // the writer may not be used after its handler
		e.hard = e.rc.SetWriteDeadline(time.Now().Add(lastWrite)) == nil
	}
}

func (e *ending) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over = true
	if e.hard { // the connection may have another request
		_ = e.rc.SetWriteDeadline(time.Time{})
	}
}
