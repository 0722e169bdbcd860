package vsock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

func TestDialEchoClose(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 16)
	c, h := connect(t, d, p, 1024)
	if c.RemoteAddr().String() != "7:1024" || c.LocalAddr().Network() != "vsock" {
		t.Errorf("from %v to %v", c.LocalAddr(), c.RemoteAddr())
	}
	msg := bytes.Repeat([]byte("hello "), 1500) // three packets
	if n, err := c.Write(msg); n != len(msg) || err != nil {
		t.Fatal(n, err)
	}
	var got []byte
	for len(got) < len(msg) {
		_, data := p.expect(opData)
		got = append(got, data...)
	}
	if !bytes.Equal(got, msg) {
		t.Error("the guest got something else")
	}
	p.reply(h, opData, nil, []byte("back"))
	b := make([]byte, 10)
	if n, err := c.Read(b); string(b[:n]) != "back" || err != nil {
		t.Errorf("read %q, %v", b[:n], err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if h, _ := p.expect(opShutdown); h.flags != shutBoth || h.fwdCnt != 4 {
		t.Errorf("shutdown %+v", h)
	}
	p.reply(h, opReset, nil, nil)
	if len(d.conns) != 0 {
		t.Errorf("%d connections left", len(d.conns))
	}
	if _, err := c.Read(b); !isKind(err, net.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if _, err := c.Write(b); !isKind(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	p.none()
}

func TestDialRefused(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 4)
	failed := make(chan error)
	go func() { _, err := d.Dial(t.Context(), 9); failed <- err }()
	h, _ := p.expect(opRequest)
	p.reply(h, opReset, nil, nil)
	err := <-failed
	var op *net.OpError
	if !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &op) {
		t.Errorf("dial: %v", err)
	}
	p.none()
}

func TestDialCanceled(t *testing.T) {
	d := newDevice(t)
	// Before the guest has a driver: it never hears of it.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := d.Dial(ctx, 9); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial: %v", err)
	}
	p := start(t, d, 4)
	p.none()
	// After the request was sent: it is told.
	ctx, cancel = context.WithCancel(t.Context())
	failed := make(chan error)
	go func() { _, err := d.Dial(ctx, 9); failed <- err }()
	h, _ := p.expect(opRequest)
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("dial: %v", err)
	}
	if r, _ := p.expect(opReset); r.srcPort != h.srcPort {
		t.Errorf("reset %+v", r)
	}
	p.reply(h, opResponse, nil, nil) // too late
	p.expect(opReset)
}

// Dialing works from the moment at which the VM starts: the request waits for the driver.
func TestDialBeforeDriver(t *testing.T) {
	d := newDevice(t)
	dialed := make(chan error)
	go func() { _, err := d.Dial(t.Context(), 1); dialed <- err }()
	for {
		d.mu.Lock()
		n := len(d.conns)
		d.mu.Unlock()
		if n == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	p := start(t, d, 4)
	h, _ := p.expect(opRequest)
	p.reply(h, opResponse, nil, nil)
	if err := <-dialed; err != nil {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 16)
	l, err := d.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Listen(80); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second listener: %v", err)
	}
	h := header{srcPort: 5000, dstPort: 80, op: opRequest}
	p.send(h, nil)
	p.expect(opResponse)
	p.send(header{srcPort: 5000, dstPort: 80, op: opData}, []byte("GET"))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, err := c.Read(b); string(b[:n]) != "GET" || err != nil {
		t.Errorf("read %q, %v", b[:n], err)
	}
	// A second one that nobody accepts is reset when the listener closes.
	p.send(header{srcPort: 5001, dstPort: 80, op: opRequest}, nil)
	p.expect(opResponse)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if r, _ := p.expect(opReset); r.dstPort != 5001 {
		t.Errorf("reset %+v", r)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	p.send(header{srcPort: 5002, dstPort: 80, op: opRequest}, nil)
	p.expect(opReset)
	if _, err := c.Write([]byte("ok")); err != nil { // what was accepted lives on
		t.Error(err)
	}
	p.expect(opData)
}

func TestBacklogIsBounded(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 64)
	if _, err := d.Listen(80); err != nil {
		t.Fatal(err)
	}
	responses, resets := 0, 0
	for i := range uint32(backlog + 10) {
		p.send(header{srcPort: 5000 + i, dstPort: 80, op: opRequest}, nil)
		switch h, _ := p.wait(); h.op {
		case opResponse:
			responses++
		case opReset:
			resets++
		}
	}
	if responses != backlog || resets != 10 {
		t.Errorf("%d accepted, %d refused", responses, resets)
	}
}

func TestHalfClose(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 16)
	c, h := connect(t, d, p, 1)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if s, _ := p.expect(opShutdown); s.flags != shutSend {
		t.Errorf("shutdown %+v", s)
	}
	if _, err := c.Write([]byte("x")); !isKind(err, syscall.EPIPE) {
		t.Errorf("write after CloseWrite: %v", err)
	}
	p.reply(h, opData, nil, []byte("rest"))
	p.reply(h, opShutdown, func(r *header) { r.flags = shutSend }, nil)
	if got, err := io.ReadAll(c); string(got) != "rest" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	p.none() // the guest still reads, as far as it has said
	p.reply(h, opShutdown, func(r *header) { r.flags = shutReceive }, nil)
	p.expect(opReset)
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF { //nolint:errorlint // io.EOF itself is the contract
		t.Errorf("read at the end: %d, %v", n, err)
	}
}

func TestGuestCloses(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 16)
	c, h := connect(t, d, p, 1)
	p.reply(h, opData, nil, []byte("last words"))
	p.reply(h, opShutdown, func(r *header) { r.flags = shutBoth }, nil)
	p.expect(opReset)
	if got, err := io.ReadAll(c); string(got) != "last words" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := c.Write([]byte("x")); !isKind(err, syscall.EPIPE) {
		t.Errorf("write: %v", err)
	}
	if len(d.conns) != 0 {
		t.Error("still in the table")
	}
	_ = c.Close()
	p.none()
}

func TestGuestResets(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 16)
	c, h := connect(t, d, p, 1)
	p.reply(h, opData, nil, []byte("data"))
	p.reply(h, opReset, nil, nil)
	got, err := io.ReadAll(c)
	if string(got) != "data" || !isKind(err, syscall.ECONNRESET) {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := c.Write([]byte("x")); !isKind(err, syscall.ECONNRESET) {
		t.Errorf("write: %v", err)
	}
}

func TestDeadlines(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 4)
	c, h := connect(t, d, p, 1)
	b := make([]byte, 1)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(b); !isKind(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	_ = c.SetDeadline(time.Now().Add(-time.Second))
	if _, err := c.Write(b); !isKind(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %v", err)
	}
	_ = c.SetDeadline(time.Time{})
	p.reply(h, opData, nil, []byte("x"))
	if _, err := c.Read(b); err != nil {
		t.Errorf("read without deadline: %v", err)
	}
	// A write that times out half way says how much was written.
	p.reply(h, opCreditUpdate, func(r *header) { r.bufAlloc = 3 }, nil)
	_ = c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err := c.Write([]byte("12345")); n != 3 || !isKind(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %d, %v", n, err)
	}
	var timeout net.Error
	_ = c.SetReadDeadline(time.Now())
	if _, err := c.Read(b); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("not a timeout: %v", err)
	}
}

// The guest never answers the shutdown.
func TestForcedClose(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 4)
	c, _ := connect(t, d, p, 1)
	_ = c.Close()
	p.expect(opShutdown)
	c.forceClose() // what the timer does
	p.expect(opReset)
	if len(d.conns) != 0 {
		t.Error("still in the table")
	}
	c.forceClose()
	p.none()
}
