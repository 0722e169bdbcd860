package agentproto

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// keptConn is a place for one connection that no operation uses.
type keptConn struct {
	mu     sync.Mutex
	conn   net.Conn
	closed bool
}

// connect returns the connection that was kept, if it is still one, or opens one.
func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	if conn := c.kept.take(); conn != nil {
		if silent(conn) {
			return conn, nil
		}
		_ = conn.Close()
	}
	return c.Dial(ctx)
}

// disconnect closes a connection, or keeps it if it can serve again.
func (c *Client) disconnect(conn net.Conn, again bool) {
	if !again || !c.Keep || !c.kept.put(conn) {
		_ = conn.Close()
	}
}

// Drop closes the connection that is kept, if there is one. It is called before a guest stops, or is copied: a
// request that is sent in between would wait in it, and each copy would have to see to its end.
func (c *Client) Drop() {
	if conn := c.kept.take(); conn != nil {
		_ = conn.Close()
	}
}

// Close is a Drop after which no connection is kept any more.
func (c *Client) Close() {
	c.kept.mu.Lock()
	c.kept.closed = true
	c.kept.mu.Unlock()
	c.Drop()
}

func (k *keptConn) take() net.Conn {
	k.mu.Lock()
	defer k.mu.Unlock()
	conn := k.conn
	k.conn = nil
	return conn
}

// put keeps a connection, unless there is one.
func (k *keptConn) put(conn net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || k.conn != nil {
		return false
	}
	k.conn = conn
	return true
}

// silent tells that a connection is open and has nothing to say, as one must that no operation uses.
func silent(conn net.Conn) bool {
	s, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	var peekErr error
	err = raw.Read(func(fd uintptr) bool {
		_, _, peekErr = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return true
	})
	return err == nil && errors.Is(peekErr, unix.EAGAIN)
}
