package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// Ports that the host's side takes for its own end, as Linux does, away from well-known ones.
const (
	firstPort = 1 << 30
	lastPort  = 1<<31 - 1
)

// backlog is how many connections of the guest wait to be accepted.
const backlog = 64

// errTooMany is about the bound on connections.
var errTooMany = errors.New("too many connections")

// Dial connects to a port of the guest. As long as the guest has no driver, it waits. A guest where
// nobody listens refuses the connection: syscall.ECONNREFUSED.
func (d *Device) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := d.dial(ctx, port)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "vsock", Addr: Addr{CID: d.cid, Port: port}, Err: err}
	}
	return c, nil
}

func (d *Device) dial(ctx context.Context, port uint32) (*Conn, error) {
	d.mu.Lock()
	c, err := d.begin(port)
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		c.cond.Broadcast()
	})
	defer stop()
	d.notify()
	established, err := c.await(ctx)
	if !established {
		d.notify() // the guest may have to hear of it
		return nil, err
	}
	return c, nil
}

// begin makes a connection that is to be requested.
func (d *Device) begin(port uint32) (*Conn, error) {
	switch {
	case d.closed:
		return nil, net.ErrClosed
	case len(d.conns) >= maxConns:
		return nil, errTooMany
	}
	// There are far more ports than connections.
	for {
		k := key{host: d.nextPort, guest: port}
		if d.nextPort++; d.nextPort > lastPort || d.nextPort < firstPort {
			d.nextPort = firstPort
		}
		if d.conns[k] == nil && d.listeners[k.host] == nil {
			c := d.newConn(k)
			c.wants.request = true
			d.enqueue(c)
			return c, nil
		}
	}
}

// await waits for the guest's answer.
func (c *Conn) await(ctx context.Context) (ok bool, err error) {
	d := c.dev
	d.mu.Lock()
	defer d.mu.Unlock()
	for c.state == connecting && c.err == nil {
		if err := ctx.Err(); err != nil {
			if c.wants.request { // the guest does not know of it
				d.remove(c, err)
			} else {
				d.abort(c, err)
			}
			return false, err
		}
		c.cond.Wait()
	}
	// A guest that accepts and closes at once has accepted.
	if c.state == established || c.peerShut != 0 {
		return true, nil
	}
	return false, c.err
}

// Listen accepts connections of the guest to a port of the host.
func (d *Device) Listen(port uint32) (net.Listener, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	addr := Addr{CID: hostCID, Port: port}
	var err error
	switch {
	case d.closed:
		err = net.ErrClosed
	case d.listeners[port] != nil:
		err = syscall.EADDRINUSE
	}
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "vsock", Addr: addr, Err: err}
	}
	l := &listener{dev: d, addr: addr, waiting: make(chan *Conn, backlog), closed: make(chan struct{})}
	d.listeners[port] = l
	return l, nil
}

// offer gives a listener a connection that the guest asks for; false refuses it.
func (d *Device) offer(k key, h *header) bool {
	l := d.listeners[k.host]
	if l == nil || len(d.conns) >= maxConns || len(l.waiting) == cap(l.waiting) {
		return false
	}
	c := d.newConn(k)
	c.state = established
	c.peerAlloc, c.peerForwarded = h.bufAlloc, h.fwdCnt
	c.wants.response = true
	d.enqueue(c)
	l.waiting <- c // there is room, and only this puts something in, under d.mu
	return true
}

// unlisten closes a listener. The caller holds d.mu.
func (d *Device) unlisten(l *listener) {
	l.once.Do(func() {
		close(l.closed)
		delete(d.listeners, l.addr.Port)
		for {
			select {
			case c := <-l.waiting:
				d.abort(c, net.ErrClosed)
			default:
				return
			}
		}
	})
}

type listener struct {
	dev     *Device
	addr    Addr
	waiting chan *Conn
	closed  chan struct{}
	once    sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
	default:
		select {
		case c := <-l.waiting:
			return c, nil
		case <-l.closed:
		}
	}
	return nil, fmt.Errorf("accept on %s: %w", l.addr, net.ErrClosed)
}

func (l *listener) Close() error {
	l.dev.mu.Lock()
	l.dev.unlisten(l)
	l.dev.mu.Unlock()
	l.dev.notify()
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }
