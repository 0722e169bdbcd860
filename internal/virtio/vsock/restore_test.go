package vsock

import (
	"bytes"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

// A fork: the guest is told, and hears of nothing else before it has handled that.
func TestRestore(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 8)
	_, h := connect(t, d, p, 1)
	p.g.Transport.Pause()
	state, err := p.g.Transport.State()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := p.g.Mem.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	defer layer.Close()
	mem, err := guestmem.Fork(layer.Size(), []guestmem.Extent{layer.Extent()}, guestmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()

	fd, err := New(guestCID + 1)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	if err := fd.Restore(d.State()); err != nil {
		t.Fatal(err)
	}
	fg := virtiotest.Attach(t, fd, mem)
	if err := fg.Transport.Restore(state); err != nil {
		t.Fatal(err)
	}
	fp := &peer{TB: t, g: fg, rx: p.rx.Moved(fg), tx: p.tx.Moved(fg), event: p.event.Moved(fg), addr: p.addr, out: p.out, events: p.events}
	fg.Transport.Resume()

	dialed := make(chan *Conn)
	go func() {
		c, err := fd.dial(t.Context(), 2)
		if err != nil {
			t.Error(err)
		}
		dialed <- c
	}()
	if _, n := fp.event.Wait(); n != 4 || !bytes.Equal(fg.Bytes(fp.events, 4), make([]byte, 4)) {
		t.Errorf("event of %d bytes", n)
	}
	time.Sleep(20 * time.Millisecond)
	if _, _, ok := fp.rx.Get(); ok {
		t.Fatal("a packet before the event was handled")
	}
	fp.event.Add(virtiotest.Buffer{Addr: fp.events, Len: 4, Writable: true})
	if !fp.event.Kick() {
		t.Error("the device does not want to hear that the event was handled")
	}
	head, n := fp.rx.Wait()
	var r header
	r.decode((*[headerSize]byte)(fg.Bytes(fp.addr[head], int(n))))
	if r.op != opRequest || r.dstCID != guestCID+1 {
		t.Errorf("packet %+v", r)
	}
	if r.srcPort == h.srcPort {
		t.Error("a port of before is used again")
	}
	fp.send(header{srcCID: guestCID + 1, srcPort: r.dstPort, dstPort: r.srcPort, op: opResponse}, nil)
	if c := <-dialed; c == nil {
		t.Error("not connected")
	}
}

func TestDriverResetEndsConnections(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 4)
	c, _ := connect(t, d, p, 1)
	read := make(chan error)
	go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
	p.g.Negotiate(p.g.DeviceFeatures())
	if err := <-read; !isKind(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	if len(d.conns) != 0 {
		t.Errorf("%d connections left", len(d.conns))
	}
}

func TestDeviceClose(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 4)
	c, _ := connect(t, d, p, 1)
	l, err := d.Listen(5)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 3)
	go func() { _, err := c.Read(make([]byte, 1)); done <- err }()
	go func() { _, err := l.Accept(); done <- err }()
	go func() { _, err := d.Dial(t.Context(), 6); done <- err }()
	p.expect(opRequest)
	_ = d.Close()
	for range 3 {
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v", err)
		}
	}
	if _, err := d.Dial(t.Context(), 1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial: %v", err)
	}
	if _, err := d.Listen(1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listen: %v", err)
	}
}
