package cell

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/vmm"
)

// A cell never holds a UDP socket: it could send to any address with it.
func TestDatagramsStayWithTheOwner(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(buf[:n], from)
		}
	}()
	to := server.LocalAddr().(*net.UDPAddr).AddrPort()
	f, err := newFlows(&vmm.Network{Allow: []vmm.Rule{{Prefix: netip.PrefixFrom(to.Addr(), 32), Protocol: "udp"}}})
	if err != nil {
		t.Fatal(err)
	}
	flow := message{Kind: kindFlow, Flow: &flowMessage{Protocol: "udp", To: to}}
	open := func() *os.File {
		t.Helper()
		_, file, err := f.answer(t.Context(), flow)
		if err != nil {
			t.Fatal(err)
		}
		return file.(*os.File)
	}
	theirs := open()
	if domain, err := unix.GetsockoptInt(int(theirs.Fd()), unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_UNIX {
		t.Errorf("the cell gets a socket of domain %d, %v", domain, err)
	}
	cell, err := net.FileConn(theirs)
	if err := errors.Join(err, theirs.Close()); err != nil {
		t.Fatal(err)
	}
	_ = cell.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, maxDatagram)
	for _, size := range []int{1, 1500, 60_000} {
		sent := make([]byte, size)
		sent[size-1] = byte(size)
		if _, err := cell.Write(sent); err != nil {
			t.Fatal(err)
		}
		if n, err := cell.Read(buf); err != nil || n != size || buf[n-1] != byte(size) {
			t.Errorf("%d of %d bytes came back, %v", n, size, err)
		}
	}
	if err := cell.Close(); err != nil {
		t.Error(err)
	}
	for start := time.Now(); len(f.datagrams) != 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("the flow does not end with the cell's end of it")
		}
	}
	var all []*os.File
	for range maxDatagramFlows {
		all = append(all, open())
	}
	if _, _, err := f.answer(t.Context(), flow); err == nil {
		t.Error("there is no bound")
	}
	f.close() // returns when all have ended
	if n := len(f.datagrams); n != 0 {
		t.Errorf("%d flows are left", n)
	}
	last, err := net.FileConn(all[0])
	if err != nil {
		t.Fatal(err)
	}
	_ = last.SetDeadline(time.Now().Add(10 * time.Second))
	if n, err := last.Read(buf); !errors.Is(err, io.EOF) {
		t.Errorf("%d bytes, %v from a network that is no more", n, err)
	}
	for _, file := range append([]io.Closer{last}, closersOf(all)...) {
		_ = file.Close()
	}
}

func closersOf(files []*os.File) (list []io.Closer) {
	for _, f := range files {
		list = append(list, f)
	}
	return list
}
