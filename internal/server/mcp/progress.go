package mcp

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
)

const (
	// progressEvery is the shortest time between two notifications about output.
	progressEvery = 200 * time.Millisecond
	// progressAlive is after how long without output a client is told that the call goes on, so that one
	// whose time-out each notification resets, waits.
	progressAlive = 10 * time.Second
	// progressShown is how many bytes a notification shows; notifications may get lost, and the result has
	// the output anyway.
	progressShown = 1 << 10
	// progressLast is how long the end of a call waits for a notification that the client has not read yet. It goes
	// before the result all the same, which waits for the client too, but neither is the runtime's.
	progressLast = 500 * time.Millisecond
)

// progress tells a client about a call that takes long, if it has asked for that. Of what one that does not read was not
// told, the last progressShown bytes are kept.
type progress struct {
	req     *sdk.CallToolRequest
	token   any
	started time.Time
	end     chan struct{}
	done    chan struct{} // closed when no notification will follow

	mu   sync.Mutex
	tail []byte // of the output since the last notification
}

// newProgress begins; stop must be called. A nil progress tells nobody.
func newProgress(ctx context.Context, req *sdk.CallToolRequest) *progress {
	token := req.Params.GetProgressToken()
	if token == nil {
		return nil
	}
	p := &progress{req: req, token: token, started: time.Now(), end: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.tell(ctx)
	}()
	return p
}

// stop has no new notification begin. It returns when the last one is sent, or after progressLast.
func (p *progress) stop() {
	if p == nil {
		return
	}
	close(p.end)
	patience := time.NewTimer(progressLast)
	defer patience.Stop()
	select {
	case <-p.done:
	case <-patience.C:
	}
}

// add is the function that takes output, or nil. It never waits for the client.
func (p *progress) add() func(runtime.Progress) {
	if p == nil {
		return nil
	}
	return func(r runtime.Progress) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.tail = append(p.tail, r.Data...)
		if n := len(p.tail) - progressShown; n > 0 {
			p.tail = append(p.tail[:0], p.tail[n:]...)
		}
	}
}

// tell sends notifications until the call or the connection ends. Their progress is the time in seconds:
// it must grow, and output may not.
func (p *progress) tell(ctx context.Context) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	last := p.started
	for {
		select {
		case <-p.end:
			return
		case <-ctx.Done():
			return
		case now := <-tick.C:
			select {
			case <-p.end: // too, which counts more
				return
			default:
			}
			p.mu.Lock()
			message := strings.ToValidUTF8(string(p.tail), "")
			p.tail = p.tail[:0]
			p.mu.Unlock()
			if message == "" {
				if now.Sub(last) < progressAlive {
					continue
				}
				message = fmt.Sprintf("still running, for %d s", int(now.Sub(p.started).Seconds()))
			}
			last = now
			if err := p.req.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{
				ProgressToken: p.token, Progress: now.Sub(p.started).Seconds(), Message: message,
			}); err != nil {
				return // the connection is gone, and the call's context tells so in its own way
			}
		}
	}
}
