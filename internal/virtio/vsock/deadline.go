package vsock

import (
	"errors"
	"net"
	"time"
)

// deadline is a point in time after which calls fail. The device's lock guards it.
type deadline struct {
	expired bool
	timer   *time.Timer
}

func (dl *deadline) stop() {
	if dl.timer != nil {
		dl.timer.Stop()
		dl.timer = nil
	}
}

// setDeadline changes a deadline and wakes those who wait.
func (c *Conn) setDeadline(dl *deadline, t time.Time) {
	dl.stop()
	dl.expired = false
	if !t.IsZero() {
		if wait := time.Until(t); wait <= 0 {
			dl.expired = true
		} else {
			var timer *time.Timer
			timer = time.AfterFunc(wait, func() {
				c.dev.mu.Lock()
				defer c.dev.mu.Unlock()
				if dl.timer == timer { // not replaced meanwhile
					dl.expired = true
					c.cond.Broadcast()
				}
			})
			dl.timer = timer
		}
	}
	c.cond.Broadcast()
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.changeDeadline(&c.readDeadline, t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.changeDeadline(&c.writeDeadline, t) }

func (c *Conn) changeDeadline(dl *deadline, t time.Time) error {
	c.dev.mu.Lock()
	defer c.dev.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	c.setDeadline(dl, t)
	return nil
}
