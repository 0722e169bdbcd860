package vsock

import (
	"bytes"
	"crypto/rand"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

// echoGuest is a guest whose ports all send back what they get, until they are closed.
type echoGuest struct {
	*peer
	conns map[uint32]*echoConn // by port of the host
}

type echoConn struct {
	h                   header // the request
	data                []byte
	received, sent      uint32
	hostAlloc, hostRead uint32
	ended, told         bool
}

func (e *echoGuest) run(stop chan struct{}) {
	e.rx.WantInterrupt()
	for {
		for {
			h, data, ok := e.get()
			if !ok {
				break
			}
			e.handle(h, data)
		}
		e.rx.WantInterrupt()
		if h, data, ok := e.get(); ok {
			e.handle(h, data)
			continue
		}
		select {
		case <-e.g.IRQ:
			e.g.Acknowledge()
		case <-stop:
			return
		}
	}
}

func (e *echoGuest) handle(h header, data []byte) {
	if h.op == opRequest {
		e.conns[h.srcPort] = &echoConn{h: h, hostAlloc: h.bufAlloc}
		e.reply(h, opResponse, nil, nil)
		return
	}
	c := e.conns[h.srcPort]
	if c == nil {
		return
	}
	c.hostAlloc, c.hostRead = h.bufAlloc, h.fwdCnt
	switch h.op {
	case opData:
		c.data = append(c.data, data...)
		c.received += h.len
	case opShutdown:
		if c.ended = true; h.flags == shutBoth {
			e.reply(c.h, opReset, nil, nil)
			delete(e.conns, h.srcPort)
			return
		}
	case opReset:
		delete(e.conns, h.srcPort)
		return
	}
	set := func(r *header) { r.fwdCnt = c.received - uint32(len(c.data)) }
	for room := c.hostAlloc - (c.sent - c.hostRead); len(c.data) > 0 && room > 0; room = c.hostAlloc - (c.sent - c.hostRead) {
		n := min(int(room), len(c.data), 64<<10)
		part := c.data[:n]
		c.data = c.data[n:]
		c.sent += uint32(n)
		e.reply(c.h, opData, set, part)
	}
	if c.ended && len(c.data) == 0 && !c.told {
		c.told = true
		e.reply(c.h, opShutdown, func(r *header) { r.flags = shutSend }, nil)
	}
}

func TestManyConnections(t *testing.T) {
	d := newDevice(t)
	e := &echoGuest{start(t, d, 100), map[uint32]*echoConn{}}
	stop := make(chan struct{})
	var guest, hosts sync.WaitGroup
	guest.Go(func() { e.run(stop) })
	for i := range 16 {
		hosts.Go(func() {
			c, err := d.dial(t.Context(), uint32(i))
			if err != nil {
				t.Error(err)
				return
			}
			want := make([]byte, 300_000+i*10_000)
			_, _ = rand.Read(want)
			var got bytes.Buffer
			var reading sync.WaitGroup
			reading.Go(func() {
				if _, err := io.Copy(&got, c); err != nil {
					t.Error(err)
				}
			})
			if _, err := io.Copy(struct{ io.Writer }{c}, bytes.NewReader(want)); err != nil {
				t.Error(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Error(err)
			}
			reading.Wait()
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("connection %d: %d of %d bytes, or others", i, got.Len(), len(want))
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	done := make(chan struct{})
	go func() { hosts.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(time.Millisecond):
			e.g.Transport.Pause()
			e.g.Transport.Resume()
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		d.mu.Lock()
		n := len(d.conns)
		d.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections left", n)
		}
	}
	close(stop)
	guest.Wait()
}

// The host closes connections in the midst of everything.
func TestAbruptCloses(t *testing.T) {
	d := newDevice(t)
	e := &echoGuest{start(t, d, 100), map[uint32]*echoConn{}}
	stop := make(chan struct{})
	var guest, hosts sync.WaitGroup
	guest.Go(func() { e.run(stop) })
	for i := range 8 {
		hosts.Go(func() {
			for j := range 50 {
				c, err := d.dial(t.Context(), uint32(i))
				if err != nil {
					t.Error(err)
					return
				}
				var writing sync.WaitGroup
				writing.Go(func() { _, _ = c.Write(make([]byte, 1<<20)) })
				_, _ = io.ReadFull(c, make([]byte, j*1000+1))
				_ = c.Close()
				writing.Wait()
			}
		})
	}
	hosts.Wait()
	close(stop)
	guest.Wait()
}

func BenchmarkToGuest(b *testing.B) {
	d := newDevice(b)
	p := start(b, d, 120)
	c, h := connect(b, d, p, 1)
	p.rx.NoInterrupt()
	const size = 64 << 10
	buf := make([]byte, size)
	grant := func(fwd uint32) {
		p.reply(h, opCreditUpdate, func(r *header) { r.bufAlloc, r.fwdCnt = 1<<30, fwd }, nil)
	}
	var total uint32
	b.SetBytes(size)
	for b.Loop() {
		grant(total)
		if n, err := c.Write(buf); n != size || err != nil {
			b.Fatal(n, err)
		}
		total += size
		for { // what a driver does with a used buffer: hand it back
			head, _, ok := p.rx.Get()
			if !ok {
				break
			}
			at := p.addr[head]
			delete(p.addr, head)
			p.addr[p.rx.Add(virtiotest.Buffer{Addr: at, Len: rxBuffer, Writable: true})] = at
		}
	}
}

func BenchmarkFromGuest(b *testing.B) {
	d := newDevice(b)
	p := start(b, d, 16)
	c, h := connect(b, d, p, 1)
	const size = 64 << 10
	buf, data := make([]byte, size), make([]byte, size)
	b.SetBytes(size)
	for b.Loop() {
		p.reply(h, opData, nil, data)
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
		for {
			if _, _, ok := p.get(); !ok {
				break
			}
		}
	}
}
