package cell

import (
	"errors"
	"io"
	"net"
	"sync"
)

// splice passes on in both directions until both have ended, or the owner's end has failed. It calls quiet
// when a stream that carried much has nothing more for the moment.
func splice(guest net.Conn, host *stream, quiet func()) {
	defer func() { _ = guest.Close() }()
	defer func() { _ = host.Close() }()
	guestEnd, ok := guest.(halfCloser)
	if !ok {
		return
	}
	if d, ok := guest.(deliverer); ok {
		d.Deliver(host.tryWrite) // the goroutine passes on the rest, in order
	}
	var back sync.WaitGroup
	back.Go(func() {
		if _, err := relay(host, guestEnd, quiet); err != nil {
			_ = guest.Close()
			_ = host.Close()
		}
	})
	read, err := relay(guestEnd, host, quiet)
	switch {
	case err == nil:
	case read:
		_ = guest.Close()
		_ = host.Close()
	default:
		// The guest takes no more: a program has ended that did not read all of its input, say. What
		// the guest has said before is still to be delivered. The rest of the input is read, as the
		// owner's end would otherwise be reset.
		_ = host.CloseRead()
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{host})
	}
	back.Wait()
}

// Sizes of what is read at one time. A stream that says little, or waits, has the small buffer only.
const (
	smallBuffer = 4 << 10
	largeBuffer = 64 << 10
)

// large are buffers for streams that carry much. Those that nobody uses are freed when the cell is idle.
var large = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// relay passes on what comes from one side to the other one until it ends. read tells that an error is
// one of reading. Only plain reads and writes are used: a socket's own ways to copy need system calls
// that a cell has not.
func relay(to, from halfCloser, quiet func()) (read bool, err error) {
	small := make([]byte, smallBuffer)
	var taken *[largeBuffer]byte
	giveBack := func() {
		if taken != nil {
			large.Put(taken)
			taken = nil
			quiet()
		}
	}
	defer giveBack()
	for {
		buf := small
		if taken != nil {
			buf = taken[:]
		}
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return false, err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return false, to.CloseWrite()
		case err != nil:
			return true, err
		case n < smallBuffer:
			giveBack()
		case taken == nil:
			taken, _ = large.Get().(*[largeBuffer]byte)
		}
	}
}

// halfCloser is a connection whose writing can be ended while it is read.
type halfCloser interface {
	io.ReadWriter
	CloseWrite() error
}

// deliverer is a guest's end that gives what it gets to try while there is nothing to read. See vsock.Conn.
type deliverer interface {
	Deliver(try func(pieces [][]byte) int)
}
