// Package relay passes on what two connections say to each other.
package relay

import (
	"io"
	"net"
	"sync"
)

// halfCloser is a connection whose writing can be ended while it is read.
type halfCloser interface{ CloseWrite() error }

// Both copies in both directions until both have ended, or one has failed. What one side has ended is ended on the
// other, by CloseWrite where it has that; on a failure both are closed. Closing them otherwise is the caller's.
func Both(a, b net.Conn) {
	pass := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if half, ok := to.(halfCloser); ok && err == nil && half.CloseWrite() == nil {
			return
		}
		_ = a.Close()
		_ = b.Close()
	}
	var back sync.WaitGroup
	back.Go(func() { pass(a, b) })
	pass(b, a)
	back.Wait()
}
