package cell

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// spliced passes on between an owner and a program of a guest until both have ended, which closes done.
func spliced(t *testing.T) (owner, program *net.UnixConn, done <-chan struct{}) {
	t.Helper()
	host, owner := handedOver(t)
	program, guestFile, err := streamPair()
	if err != nil {
		t.Fatal(err)
	}
	guest, err := net.FileConn(guestFile)
	if err := errors.Join(err, guestFile.Close()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		splice(guest, host, func() {})
		close(ended)
	}()
	return owner, program, ended
}

// What a guest says before it stops to listen is delivered, however much it was sent that it did not
// read.
func TestSpliceToOneWhoDoesNotListen(t *testing.T) {
	owner, program, done := spliced(t)
	defer owner.Close()
	if err := program.CloseRead(); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		_, err := owner.Write(make([]byte, 4<<20))
		written <- err
	}()
	select {
	case err := <-written:
		if !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the owner's write: %v, want %v", err, syscall.EPIPE)
		}
	case <-time.After(10 * time.Second):
		t.Error("the owner's write hangs")
	}
	last := strings.Repeat("last words ", 1<<12)
	go func() {
		_, _ = program.Write([]byte(last))
		_ = program.Close()
	}()
	if err := owner.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(owner); string(got) != last || err != nil {
		t.Errorf("%d bytes of %d, %v", len(got), len(last), err)
	}
	<-done
}

// sizes is a stream of chunks that notes how much it is asked for, and how much it is sent.
type sizes struct {
	left  []int // the chunks
	asked []int
	said  int
}

func (s *sizes) Read(p []byte) (int, error) {
	if len(s.left) == 0 {
		return 0, io.EOF
	}
	s.asked = append(s.asked, len(p))
	n := min(len(p), s.left[0])
	s.left = s.left[1:]
	return n, nil
}

func (s *sizes) Write(p []byte) (int, error) { s.said += len(p); return len(p), nil }
func (s *sizes) CloseWrite() error           { return nil }

// A stream has a large buffer only while it carries much.
func TestRelayBuffers(t *testing.T) {
	const much = 1 << 20
	from, to := &sizes{left: []int{10, much, much, 10, 10, much, 1}}, &sizes{}
	if read, err := relay(to, from, func() {}); read || err != nil {
		t.Fatal(read, err)
	}
	want := []int{smallBuffer, smallBuffer, largeBuffer, largeBuffer, smallBuffer, smallBuffer, largeBuffer}
	if !slices.Equal(from.asked, want) || to.said != 10+smallBuffer+largeBuffer+10+10+smallBuffer+1 {
		t.Errorf("asked for %v, want %v; %d bytes passed on", from.asked, want, to.said)
	}
}
