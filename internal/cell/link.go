package cell

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errLinkClosed is what calls get when the cell does not answer any more.
var errLinkClosed = errors.New("the cell does not answer any more")

const (
	// sendPatience is how long a cell may take to accept a message. One that does not is broken.
	sendPatience = 10 * time.Second
	// maxCalls bounds the requests that a cell owes a reply.
	maxCalls = 4096
	// confineID is the ID of the first request.
	confineID = 1
)

// fder is an open file that can be sent.
type fder interface{ Fd() uintptr }

// link is the owner's end of the protocol. It trusts nothing that arrives.
type link struct {
	conn *net.UnixConn
	// handle gets what is no reply. It is called by serve.
	handle func(message) error

	sending sync.Mutex // held while a message is sent

	mu      sync.Mutex
	pending map[uint64]chan message // of requests; nil where nobody waits any more
	next    uint64
	closed  bool
}

func newLink(conn *net.UnixConn, handle func(message) error) *link {
	return &link{conn: conn, handle: handle, pending: map[uint64]chan message{}, next: confineID}
}

// serve reads what the cell says until it ends or says what it must not; then all calls fail.
func (l *link) serve() error {
	defer l.shut()
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return err
	}
	for {
		m, over, err := receiveMessage(raw)
		if over {
			return nil // the process has ended, or Close
		}
		if err == nil {
			err = l.dispatch(m)
		}
		if err != nil {
			return fmt.Errorf("the cell breaks the protocol: %w", err)
		}
	}
}

// packets are buffers for a message: most links have nothing to read most of the time, and need none meanwhile.
var packets = sync.Pool{New: func() any { return new([maxMessage + 1]byte) }}

// receiveMessage waits for a message, and takes it. over tells that there will be none any more.
func receiveMessage(raw syscall.RawConn) (m message, over bool, err error) {
	waitErr := raw.Read(func(fd uintptr) bool {
		buf := packets.Get().(*[maxMessage + 1]byte)
		defer packets.Put(buf)
		for {
			// Without room for them, the kernel drops descriptors that the cell may have sent.
			n, readErr := unix.Read(int(fd), buf[:])
			switch {
			case errors.Is(readErr, unix.EINTR):
				continue
			case errors.Is(readErr, unix.EAGAIN):
				return false
			case readErr != nil || n == 0:
				over = true
			default:
				m, err = decode(buf[:n])
			}
			return true
		}
	})
	return m, over || waitErr != nil, err
}

func (l *link) dispatch(m message) error {
	if m.Kind != kindReply {
		return l.handle(m)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting, ok := l.pending[m.ID]
	if l.closed {
		return nil // it was on its way
	}
	if !ok {
		return fmt.Errorf("a reply to request %d, which does not wait for one", m.ID)
	}
	delete(l.pending, m.ID)
	if waiting != nil {
		waiting <- m // there is room for the one reply
	}
	return nil
}

// waits tells whether a reply to a request is awaited.
func (l *link) waits(id uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pending[id] != nil
}

// call sends a request, with files, and waits for the reply.
func (l *link) call(ctx context.Context, request message, files ...fder) (message, error) {
	reply := make(chan message, 1)
	var err error
	if request.ID, err = l.enter(reply); err != nil {
		return message{}, err
	}
	if err := l.send(request, files...); err != nil {
		l.mu.Lock()
		delete(l.pending, request.ID)
		l.mu.Unlock()
		return message{}, err
	}
	return l.wait(ctx, request, reply)
}

// enter makes a request's ID, whose reply goes to the channel.
func (l *link) enter(reply chan message) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, errLinkClosed
	}
	if len(l.pending) >= maxCalls {
		return 0, fmt.Errorf("the cell owes %d replies", len(l.pending))
	}
	id := l.next
	l.next++
	l.pending[id] = reply
	return id, nil
}

// request sends a request for whose reply nobody waits. When it fails, the cell is ending.
func (l *link) request(m message) {
	var err error
	if m.ID, err = l.enter(nil); err == nil {
		_ = l.send(m)
	}
}

func (l *link) wait(ctx context.Context, request message, reply chan message) (message, error) {
	select {
	case m, ok := <-reply:
		if !ok {
			return message{}, errLinkClosed
		}
		return m, m.Failure.err()
	case <-ctx.Done():
	}
	l.mu.Lock()
	_, waiting := l.pending[request.ID]
	if waiting {
		l.pending[request.ID] = nil
	}
	l.mu.Unlock()
	if waiting && request.Kind == kindDial {
		_ = l.send(message{Kind: kindCancel, ID: request.ID}) // when it fails, the cell is ending
	}
	return message{}, context.Cause(ctx)
}

// send writes a message, with the descriptors of files. The kernel keeps those open until the cell has taken
// them.
func (l *link) send(m message, files ...fder) error {
	b, err := encode(&m)
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	l.sending.Lock()
	defer l.sending.Unlock()
	_ = l.conn.SetWriteDeadline(time.Now().Add(sendPatience))
	err = insist(func() error {
		_, _, err := l.conn.WriteMsgUnix(b, rights, nil)
		return err
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the cell has not read its messages for %v", sendPatience)
	case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET), errors.Is(err, net.ErrClosed):
		return fmt.Errorf("%w: %w", errLinkClosed, err)
	}
	return fmt.Errorf("tell the cell: %w", err)
}

// shut fails all calls, now and later.
func (l *link) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	for _, waiting := range l.pending {
		if waiting != nil {
			close(waiting)
		}
	}
	clear(l.pending)
}

// hangUp fails all calls, and tells the cell that there will be none any more. What it says until it ends can still be read.
func (l *link) hangUp() {
	l.shut()
	_ = l.conn.CloseWrite() // when it fails, the cell has ended
}

func (l *link) close() error {
	l.shut()
	if err := l.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// packetPair returns two connected sockets that keep messages apart, the second as a file to be
// inherited.
func packetPair() (*net.UnixConn, *os.File, error) { return socketPair(unix.SOCK_SEQPACKET) }

// streamPair returns two connected stream sockets, the second as a file to be sent.
func streamPair() (*net.UnixConn, *os.File, error) { return socketPair(unix.SOCK_STREAM) }

func socketPair(kind int) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make sockets: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "cell"), os.NewFile(uintptr(fds[1]), "cell")
	conn, err := net.FileConn(ours) // which duplicates it
	if err := errors.Join(err, ours.Close()); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.Join(fmt.Errorf("a pair of sockets is a %T", conn), conn.Close(), theirs.Close())
	}
	return unixConn, theirs, nil
}
