package qemu

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/aethervm/aether/internal/agentproto"
)

// channel is the connection to the agent, over which each operation has a stream of its own.
// It implements agentsandbox.Channel.
type channel struct{ session *yamux.Session }

// openChannel connects to the agent, which may still be booting.
func openChannel(ctx context.Context, m *machine) (*channel, error) {
	port, err := m.dial(ctx)
	if err != nil {
		return nil, err
	}
	session, err := agentproto.HostSession(ctx, port)
	if err != nil {
		return nil, err
	}
	c := &channel{session: session}
	go c.refuse()
	return c, nil
}

// refuse ends the session if the guest opens a stream: it is never its turn.
func (c *channel) refuse() {
	if stream, err := c.session.Accept(); err == nil {
		_ = stream.Close()
		_ = c.session.Close()
	}
}

// Lost is closed when the port is: by the end of the guest, or of QEMU.
func (c *channel) Lost() <-chan struct{} { return c.session.CloseChan() }

// Close ends all streams.
func (c *channel) Close() { _ = c.session.Close() }

// Dial opens a stream. With a guest that is paused or takes nothing, opening and closing may block
// for long, so neither is waited for beyond ctx.
func (c *channel) Dial(ctx context.Context) (net.Conn, error) {
	type result struct {
		stream *yamux.Stream
		err    error
	}
	opened := make(chan result, 1)
	go func() {
		stream, err := c.session.OpenStream()
		opened <- result{stream, err}
	}()
	select {
	case r := <-opened:
		if r.err != nil {
			return nil, fmt.Errorf("reach the guest agent: %w", r.err)
		}
		return &stream{Stream: r.stream}, nil
	case <-ctx.Done():
		go func() {
			if r := <-opened; r.err == nil {
				_ = r.stream.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// stream makes Close of a multiplexed stream end reads and writes in progress, as that of any other
// connection does.
type stream struct {
	*yamux.Stream
	closing sync.Once
}

func (s *stream) Close() error {
	s.closing.Do(func() {
		_ = s.SetDeadline(time.Unix(1, 0))
		go func() { _ = s.Stream.Close() }()
	})
	return nil
}
