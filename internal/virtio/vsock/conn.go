package vsock

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// closeTimeout is how long a guest may take to agree to the end of a connection: Linux's figure.
const closeTimeout = 8 * time.Second

type connState int

const (
	connecting connState = iota
	established
	dying // a reset is to be sent, after which the connection is gone
	gone  // not in the device's table
)

// Conn is the host's end of a connection to the guest. Its methods may be called concurrently. Bytes
// that were written are in the guest's kernel when Write returns.
type Conn struct {
	dev  *Device
	key  key
	cond sync.Cond // on dev.mu, which guards all that follows

	state  connState
	closed bool  // by the host
	err    error // what ended the connection

	in        buffer                    // from the guest, not yet read
	forwarded uint32                    // bytes read, modulo 1<<32
	told      uint32                    // forwarded as last told to the guest
	try       func(pieces [][]byte) int // may be nil; see Deliver
	unread    bool                      // Read has returned bytes since it was last called with nothing to read

	writing       bool   // a Write is in progress
	out           []byte // what is left of it, lent by Write
	written       int    // what is done of it
	sentBytes     uint32 // modulo 1<<32
	peerAlloc     uint32
	peerForwarded uint32
	askedCredit   bool // since the guest last told

	peerShut, shut, shutTold uint32 // the flags of opShutdown: the guest's, ours, ours as sent

	queued bool // in dev.ready
	wants  struct {
		request, response, creditUpdate, reset bool
	}

	readDeadline, writeDeadline deadline
	closing                     *time.Timer
}

func (d *Device) newConn(k key) *Conn {
	c := &Conn{dev: d, key: k}
	c.cond.L = &d.mu
	d.conns[k] = c
	return c
}

// credit is how many bytes the guest has room for. A guest that takes back what it promised has none.
func (c *Conn) credit() int {
	return max(0, int(c.peerAlloc)-int(c.sentBytes-c.peerForwarded))
}

// hasOutput tells whether packet has something to return.
func (c *Conn) hasOutput() bool {
	w := &c.wants
	switch {
	case c.state == gone:
		return false
	case w.reset, w.request, w.response, w.creditUpdate:
		return true
	case c.state != established:
		return false
	case len(c.out) > 0:
		return c.credit() > 0 || !c.askedCredit
	}
	return c.shut != c.shutTold
}

// packet returns the next packet to send, with no more than room bytes of data.
func (c *Conn) packet(room uint64) (h header, data []byte) {
	h = header{
		srcPort: c.key.host, dstPort: c.key.guest, kind: typeStream,
		bufAlloc: BufferSize, fwdCnt: c.forwarded,
	}
	c.told = c.forwarded
	w := &c.wants
	w.creditUpdate = false // every packet tells
	switch {
	case w.reset:
		w.reset, h.op = false, opReset
	case w.request:
		w.request, h.op = false, opRequest
	case w.response:
		w.response, h.op = false, opResponse
	case c.state == established && len(c.out) > 0 && c.credit() > 0:
		data = c.out[:min(uint64(len(c.out)), uint64(c.credit()), room)]
		c.out = c.out[len(data):]
		c.sentBytes += uint32(len(data))
		c.written += len(data)
		h.op = opData
	case c.state == established && len(c.out) > 0 && !c.askedCredit:
		c.askedCredit, h.op = true, opCreditRequest
	case c.state == established && len(c.out) == 0 && c.shut != c.shutTold:
		c.shutTold, h.op, h.flags = c.shut, opShutdown, c.shut
	default:
		h.op = opCreditUpdate
	}
	return h, data
}

// remove takes a connection out of the table. What was received can still be read, unless err is
// net.ErrClosed; then reading ends with err.
func (d *Device) remove(c *Conn, err error) {
	if c.state == gone {
		return
	}
	c.state = gone
	if c.err == nil {
		c.err = err
	}
	c.out = nil
	if c.closing != nil {
		c.closing.Stop()
	}
	if d.conns[c.key] == c {
		delete(d.conns, c.key)
	}
	c.cond.Broadcast()
}

// abort ends a connection with a reset.
func (d *Device) abort(c *Conn, err error) {
	if c.state == gone {
		return
	}
	c.state = dying
	if c.err == nil {
		c.err = err
	}
	c.out = nil
	c.wants.request, c.wants.response, c.wants.creditUpdate, c.wants.reset = false, false, false, true
	c.cond.Broadcast()
	d.enqueue(c)
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, tell, err := c.read(p)
	if tell {
		c.dev.notify()
	}
	if err != nil && !errors.Is(err, io.EOF) { // which callers compare without unwrapping
		err = c.opError("read", err)
	}
	return n, err
}

func (c *Conn) read(p []byte) (n int, tell bool, err error) {
	c.dev.mu.Lock()
	defer c.dev.mu.Unlock()
	for {
		c.unread = c.unread && c.in.len() > 0
		switch {
		case c.closed:
			return 0, false, net.ErrClosed
		case c.readDeadline.expired:
			return 0, false, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, false, nil
		case c.in.len() > 0:
			n = c.in.read(p)
			c.forwarded += uint32(n)
			c.unread = true
			if c.tellForwarded() {
				c.dev.enqueue(c)
				return n, true, nil
			}
			return n, false, nil
		case c.peerShut&shutSend != 0:
			return 0, false, io.EOF
		case c.err != nil:
			return 0, false, c.err
		}
		c.cond.Wait()
	}
}

// tellForwarded has the guest told of the room that it has again: not too often, but before it has to wait.
func (c *Conn) tellForwarded() bool {
	if c.forwarded-c.told < BufferSize/2 || c.state != established {
		return false
	}
	c.wants.creditUpdate = true
	return true
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	d := c.dev
	d.mu.Lock()
	for c.writing && c.writeError() == nil {
		c.cond.Wait()
	}
	err := c.writeError()
	if err != nil || len(p) == 0 {
		d.mu.Unlock()
		return 0, c.opError("write", err)
	}
	c.writing, c.out, c.written = true, p, 0
	d.enqueue(c)
	d.mu.Unlock()
	d.notify()
	d.mu.Lock()
	for len(c.out) > 0 {
		if err = c.writeError(); err != nil {
			break
		}
		c.cond.Wait()
	}
	n := c.written
	if n < len(p) && err == nil { // what was left was taken away
		err = c.writeError()
	}
	c.writing, c.out = false, nil
	c.cond.Broadcast()
	d.enqueue(c) // a shutdown may have waited
	more := c.queued
	d.mu.Unlock()
	if more {
		d.notify()
	}
	return n, c.opError("write", err)
}

// writeError is why nothing can be written, or nil.
func (c *Conn) writeError() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.writeDeadline.expired:
		return os.ErrDeadlineExceeded
	case c.peerShut&shutReceive != 0 || c.shut&shutSend != 0 && !c.writing:
		return syscall.EPIPE
	case errors.Is(c.err, io.EOF):
		return syscall.EPIPE
	}
	return c.err
}

// CloseWrite tells the guest that no more will be written, after what is being written.
func (c *Conn) CloseWrite() error {
	c.dev.mu.Lock()
	if c.closed {
		c.dev.mu.Unlock()
		return c.opError("close", net.ErrClosed)
	}
	c.shut |= shutSend
	c.dev.enqueue(c)
	c.dev.mu.Unlock()
	c.dev.notify()
	return nil
}

// Close implements net.Conn. Calls in progress fail. The guest reads what it was sent and then the end.
func (c *Conn) Close() error {
	d := c.dev
	d.mu.Lock()
	if c.closed {
		d.mu.Unlock()
		return nil
	}
	c.closed = true
	c.shut = shutBoth
	c.in, c.out = buffer{}, nil
	c.readDeadline.stop()
	c.writeDeadline.stop()
	c.cond.Broadcast()
	if c.state == established {
		c.closing = time.AfterFunc(closeTimeout, c.forceClose)
		d.enqueue(c)
	}
	d.mu.Unlock()
	d.notify()
	return nil
}

// forceClose ends the wait for a guest that does not agree.
func (c *Conn) forceClose() {
	c.dev.mu.Lock()
	c.dev.abort(c, net.ErrClosed)
	c.dev.mu.Unlock()
	c.dev.notify()
}

func (c *Conn) opError(op string, err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: op, Net: "vsock", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return Addr{CID: hostCID, Port: c.key.host} }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return Addr{CID: c.dev.cid, Port: c.key.guest} }
