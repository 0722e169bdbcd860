package agentproto

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/yamux"
)

// A serial port is one byte stream that outlives its users: the host may go and come back, the
// guest may be a restored copy whose former host is far away, and either can find bytes in the port
// that were meant for somebody else. So a session over a port starts with a greeting in which both
// sides skip whatever comes before it. Its first byte differs from that of every frame of the
// multiplexer (its version, 0), so a greeting that meets an old session ends that session.
const (
	greetingMagic = "\xaeaether-agent\x01"
	nonceSize     = 16
	muxVersion    = 0 // the first byte of every frame of the multiplexer
	// How much foreign data the host skips before it gives up.
	maxSkip = 16 << 20
)

// How long the host waits for an answer before it greets again, at first and at last: a greeting
// may have been lost with the end of an old session, or the guest is not there yet.
const (
	firstPatience = 50 * time.Millisecond
	lastPatience  = time.Second
)

// HostSession greets the agent at the other end of the port and returns the host's side of a
// multiplexer: each operation opens a stream. It waits for the agent, which may be booting, until
// ctx ends. The session owns port, which is closed on failure.
func HostSession(ctx context.Context, port net.Conn) (*yamux.Session, error) {
	stop := context.AfterFunc(ctx, func() { _ = port.Close() })
	err := greet(port)
	if !stop() {
		err = ctx.Err()
	}
	var session *yamux.Session
	if err == nil {
		session, err = yamux.Client(port, muxConfig())
	}
	if err != nil {
		_ = port.Close()
		return nil, fmt.Errorf("greet the guest agent: %w", err)
	}
	return session, nil
}

func greet(port net.Conn) error {
	skip := &syncReader{r: port}
	for patience := firstPatience; ; patience = min(2*patience, lastPatience) {
		greeting := append([]byte(greetingMagic), make([]byte, nonceSize)...)
		rand.Read(greeting[len(greetingMagic):]) // never fails
		if _, err := port.Write(greeting); err != nil {
			return err
		}
		if err := port.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		err := skip.until(greeting, maxSkip)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			continue
		}
		if err != nil {
			return err
		}
		return port.SetReadDeadline(time.Time{})
	}
}

// GuestPort is the guest's end of a port over all the sessions that it sees.
type GuestPort struct {
	// rest is what the last session had read when it ended. The greeting that ended it is in there.
	rest []byte
}

// Session waits for the host's greeting on port, which was just opened, and returns the guest's
// side of a multiplexer: each accepted stream is an operation. The session owns port.
func (g *GuestPort) Session(port io.ReadWriteCloser) (*yamux.Session, error) {
	in := &recorder{ReadWriteCloser: port, owner: g}
	skip := &syncReader{r: in}
	if rest := g.rest; len(rest) > 0 {
		g.rest = nil
		in.prefix = rest
	}
	for {
		if err := skip.until([]byte(greetingMagic), 0); err != nil {
			return nil, err
		}
		answer := append([]byte(greetingMagic), make([]byte, nonceSize)...)
		if _, err := io.ReadFull(in, answer[len(greetingMagic):]); err != nil {
			return nil, err
		}
		if _, err := port.Write(answer); err != nil {
			return nil, err
		}
		// That may have been an earlier greeting of this host, or of another: the next byte tells.
		first := make([]byte, 1)
		if _, err := io.ReadFull(in, first); err != nil {
			return nil, err
		}
		if first[0] != muxVersion {
			skip.seen = append(skip.seen[:0], first[0])
			continue
		}
		in.prefix = append(first, in.prefix...)
		in.recording = true
		return yamux.Server(in, muxConfig())
	}
}

// recorder is a port with some bytes already read, which remembers what was read last.
type recorder struct {
	io.ReadWriteCloser
	prefix    []byte
	recording bool
	owner     *GuestPort
}

func (r *recorder) Read(b []byte) (n int, err error) {
	if len(r.prefix) > 0 {
		n = copy(b, r.prefix)
		r.prefix = r.prefix[n:]
	} else {
		n, err = r.ReadWriteCloser.Read(b)
	}
	if r.recording {
		r.owner.rest = append(r.owner.rest[:0], b[:n]...)
	}
	return n, err
}

// muxConfig has no timers that a guest could miss that is paused for as long as its owner likes.
func muxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.StreamOpenTimeout = 0
	c.ConnectionWriteTimeout = 24 * time.Hour
	c.LogOutput = io.Discard // errors reach the callers too
	return c
}

// syncReader finds a byte sequence in a stream, reading no byte past it.
type syncReader struct {
	r    io.Reader
	seen []byte // the last bytes read
}

// until skips bytes up to and including want. limit bounds what is skipped; 0 is no limit.
func (s *syncReader) until(want []byte, limit int) error {
	for skipped := 0; limit == 0 || skipped < limit; {
		if bytes.HasSuffix(s.seen, want) {
			s.seen = s.seen[:0]
			return nil
		}
		// At least so many bytes are missing: the longest end of seen that starts want may grow.
		have := 0
		for n := min(len(want)-1, len(s.seen)); n > 0; n-- {
			if bytes.HasSuffix(s.seen, want[:n]) {
				have = n
				break
			}
		}
		s.seen = append(s.seen[:0], want[:have]...)
		buf := make([]byte, len(want)-have)
		n, err := s.r.Read(buf)
		s.seen = append(s.seen, buf[:n]...)
		if err != nil && !bytes.HasSuffix(s.seen, want) {
			return err
		}
		skipped += n
	}
	return fmt.Errorf("%w: no greeting in %d bytes", ErrProtocol, limit)
}
