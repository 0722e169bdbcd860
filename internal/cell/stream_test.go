package cell

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// handedOver is a stream, and its other end.
func handedOver(t *testing.T) (*stream, *net.UnixConn) {
	t.Helper()
	owner, hostEnd, err := streamPair()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(hostEnd.Fd()))
	if err := errors.Join(err, hostEnd.Close()); err != nil {
		t.Fatal(err)
	}
	host, err := newStream(fd)
	if err != nil {
		t.Fatal(err)
	}
	return host, owner
}

// tryWrite takes what there is room for, and neither waits for an owner that does not read nor fails for one that is gone.
func TestTryWrite(t *testing.T) {
	host, owner := handedOver(t)
	defer host.Close()
	pieces := [][]byte{bytes.Repeat([]byte("a"), 1000), bytes.Repeat([]byte("b"), 100_000)}
	sent := []byte{}
	for n := 101_000; n == 101_000; {
		n = host.tryWrite(pieces)
		sent = append(sent, bytes.Join(pieces, nil)[:n]...)
		if len(sent) > 100<<20 {
			t.Fatal("there is always room")
		}
	}
	if n := host.tryWrite(pieces[1:]); n != 0 {
		sent = append(sent, pieces[1][:n]...)
	}
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(owner, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d, %v", len(got), len(sent), err)
	}
	if n := host.tryWrite(pieces[:1]); n != 1000 {
		t.Errorf("%d bytes taken by an owner that reads", n)
	}
	if err := owner.Close(); err != nil {
		t.Fatal(err)
	}
	if n := host.tryWrite(pieces); n != 0 {
		t.Errorf("%d bytes taken without an owner", n)
	}
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	if n := host.tryWrite(pieces); n != 0 {
		t.Errorf("%d bytes taken by a stream that is closed", n)
	}
}

// delivering is a guest's end that can deliver.
type delivering struct {
	*stream
	try chan func([][]byte) int
}

func (d delivering) Deliver(try func([][]byte) int) { d.try <- try }

// What a guest's end can deliver goes to the owner with nothing between.
func TestSpliceDelivers(t *testing.T) {
	host, owner := handedOver(t)
	end, program := handedOver(t)
	guest := delivering{end, make(chan func([][]byte) int, 1)}
	done := make(chan struct{})
	go func() {
		splice(guest, host, func() {})
		close(done)
	}()
	try := <-guest.try
	if n := try([][]byte{[]byte("at "), []byte("once")}); n != 7 {
		t.Errorf("%d bytes taken", n)
	}
	b := make([]byte, 20)
	if n, err := owner.Read(b); string(b[:n]) != "at once" || err != nil {
		t.Errorf("%q, %v", b[:n], err)
	}
	if err := errors.Join(owner.Close(), program.Close()); err != nil {
		t.Error(err)
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("a splice without ends goes on")
	}
}
