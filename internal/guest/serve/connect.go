package serve

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/sandbox"
)

// maxSockets is how many sockets are open for hosts at one time. Each may hold a window of input.
const maxSockets = 64

// thawInterval is how often a relay that was cut off looks whether the machine goes on.
const thawInterval = 20 * time.Millisecond

// connect passes input to a Unix socket and sends what comes of it, until the peer has closed it. It is the socket's
// own buffer that holds what the peer does not take, and then the window; the agent waits for nobody.
func (s *Server) connect(c *conn, name string) error {
	if s.sockets.Add(1) > maxSockets {
		s.sockets.Add(-1)
		return fmt.Errorf("connect %s: %d sockets are open already: %w", name, maxSockets, unix.EAGAIN)
	}
	defer s.sockets.Add(-1)
	copied := s.Machine.Copied() // before: the machine may be copied at any time from now on
	socket, err := dialUnix(name)
	if err != nil {
		return err
	}
	defer func() { _ = socket.Close() }()
	r := &relay{machine: s.Machine, c: c, socket: socket, input: newInputBuffer(), copied: copied, next: make(chan following, 1)}
	r.run()
	return nil
}

// dialUnix connects to a stream socket in the file system. Links are followed: the agent's root is the sandbox's, so none
// leads out of it.
func dialUnix(name string) (*net.UnixConn, error) {
	if err := sandbox.CheckPath(name); err != nil {
		return nil, err
	}
	address := name
	if len(name) >= len(unix.RawSockaddrUnix{}.Path) { // no room for it: by way of a descriptor
		fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "connect", Path: name, Err: err}
		}
		defer func() { _ = unix.Close(fd) }()
		address = "/proc/self/fd/" + strconv.Itoa(fd)
	}
	socket, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		var errno unix.Errno
		if !errors.As(err, &errno) {
			return nil, fmt.Errorf("connect %s: %w", name, err)
		}
		return nil, &os.PathError{Op: "connect", Path: name, Err: errno}
	}
	return socket, nil
}

// relay is a connection to a socket, with the goroutines that serve it.
type relay struct {
	machine Machine
	c       *conn
	socket  *net.UnixConn
	input   *inputBuffer
	cutOnce sync.Once
	copied  int         // the machine's count when the socket was connected
	over    atomic.Bool // the peer has closed: what comes now is not for it
	next    chan following
}

func (r *relay) run() {
	go r.receive()
	go r.feed()
	r.sendOutput()
	r.input.stop()
	r.over.Store(true)
	r.c.next = r.next
}

// cutOff closes the socket because nobody is there to be served. As a program that the host runs, a peer that is in a copy
// of the machine is not told that the host is gone.
func (r *relay) cutOff() {
	r.cutOnce.Do(func() {
		r.input.stop()
		go func() {
			// One that is frozen turns out to be a copy, or not, when it is thawed.
			for r.machine.Frozen() {
				time.Sleep(thawInterval)
			}
			if r.machine.Copied() == r.copied {
				_ = r.socket.Close()
			}
		}()
	})
}

// receive takes the host's frames until one comes that is not for the socket, or the connection ends.
func (r *relay) receive() {
	for {
		f, err := r.c.frames.Next()
		if err == nil {
			switch {
			case f.Kind == agentproto.KindInput:
				if r.input.add(f.Payload) {
					continue
				}
				err = fmt.Errorf("%w: more input than the window has", agentproto.ErrProtocol)
			case f.Kind == agentproto.KindInputEnd:
				r.input.end()
				continue
			case f.Kind != agentproto.KindRequest || !r.over.Load():
				err = fmt.Errorf("%w: a frame of kind %d for a socket", agentproto.ErrProtocol, f.Kind)
			}
		}
		r.next <- following{f, err}
		if err != nil {
			r.cutOff()
		}
		return
	}
}

// feed passes input on to the peer, and its end.
func (r *relay) feed() {
	r.c.passInput(r.input, r.socket, r.cutOff)
	if r.input.atEnd() {
		_ = r.socket.CloseWrite() // fails if the peer is gone, which the other direction finds out
	}
}

// sendOutput sends what the peer writes, until it has closed its end, or the socket was closed here.
func (r *relay) sendOutput() {
	buf := make([]byte, agentproto.HeaderSize+agentproto.MaxData)
	for {
		n, err := r.socket.Read(buf[agentproto.HeaderSize:])
		// After a failure the output is read on and dropped, in a copy that nobody listens to.
		if n > 0 && r.c.writeSealed(agentproto.KindOutput, buf[:agentproto.HeaderSize+n]) != nil {
			r.cutOff()
		}
		if err != nil {
			return
		}
	}
}
