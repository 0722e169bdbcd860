package cell

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// maxDatagramFlows bounds the UDP flows of a cell: more than its network has at a time, so that only a cell
	// that has been taken over meets it.
	maxDatagramFlows = 512
	// maxDatagram is the size of the largest UDP datagram in bytes.
	maxDatagram = 64 << 10
)

// datagramBuffers are for packets on their way: a flow that is quiet has none.
var datagramBuffers = sync.Pool{New: func() any {
	b := make([]byte, maxDatagram)
	return &b
}}

// relay keeps a UDP socket and returns what the cell gets in its place: one that reaches nothing but the owner. With
// the socket itself a cell that has been taken over could send to any address from the owner's network, as the system
// call filter does not see where a message goes. An empty datagram is dropped: it would look like an end.
func (f *flows) relay(conn *net.UDPConn) (closer, error) {
	select {
	case f.datagrams <- struct{}{}:
	default:
		return nil, errors.Join(errors.New("too many UDP flows are open"), conn.Close())
	}
	ours, theirs, err := packetPair()
	if err != nil {
		<-f.datagrams
		return nil, errors.Join(err, conn.Close())
	}
	// Either end's end is both's, and the network's is all flows'.
	end := sync.OnceFunc(func() { _, _ = conn.Close(), ours.Close() })
	stop := context.AfterFunc(f.ctx, end)
	var pumps sync.WaitGroup
	for _, way := range []struct {
		to   io.Writer
		from syscall.Conn
	}{{conn, ours}, {ours, conn}} {
		pumps.Go(func() {
			defer end()
			pumpDatagrams(way.to, way.from)
		})
	}
	f.tasks.Go(func() {
		pumps.Wait()
		stop()
		<-f.datagrams
	})
	return theirs, nil
}

// pumpDatagrams passes packets on until one side ends.
func pumpDatagrams(to io.Writer, from syscall.Conn) {
	raw, err := from.SyscallConn()
	for err == nil {
		var buf *[]byte
		var n int
		waitErr := raw.Read(func(fd uintptr) bool {
			buf = datagramBuffers.Get().(*[]byte)
			if n, err = unix.Read(int(fd), *buf); errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				datagramBuffers.Put(buf)
				buf = nil
				return false
			}
			return true
		})
		if waitErr != nil {
			err = waitErr
		}
		_, isUDP := from.(*net.UDPConn)
		switch {
		case err != nil:
		case n > 0:
			_, err = to.Write((*buf)[:n])
		case !isUDP:
			err = io.EOF
		}
		if buf != nil {
			datagramBuffers.Put(buf)
		}
	}
}
