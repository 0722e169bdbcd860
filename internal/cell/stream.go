package cell

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stream is a connected socket that the process was given. Package net would ask the kernel about it,
// by system calls that a cell has not.
type stream struct {
	file *os.File
	raw  syscall.RawConn
}

// newStream takes over a descriptor.
func newStream(fd int) (*stream, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	s := &stream{file: os.NewFile(uintptr(fd), "socket")}
	var err error
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

func (s *stream) Read(p []byte) (int, error)  { return s.file.Read(p) }
func (s *stream) Write(p []byte) (int, error) { return s.file.Write(p) }
func (s *stream) Close() error                { return s.file.Close() }

// tryWrite writes what the socket has room for, without waiting, and returns how many bytes that are. What is
// wrong with the socket is for Write to say.
func (s *stream) tryWrite(pieces [][]byte) (n int) {
	_ = s.raw.Control(func(fd uintptr) { n, _ = unix.Writev(int(fd), pieces) })
	return max(n, 0)
}

// CloseWrite ends what the other side reads.
func (s *stream) CloseWrite() error { return s.shutdown(unix.SHUT_WR) }

// CloseRead has what the other side writes fail. What it has written can still be read.
func (s *stream) CloseRead() error { return s.shutdown(unix.SHUT_RD) }

func (s *stream) shutdown(how int) error {
	var shutErr error
	if err := s.raw.Control(func(fd uintptr) { shutErr = unix.Shutdown(int(fd), how) }); err != nil {
		return err
	}
	return shutErr
}

func (s *stream) SetDeadline(t time.Time) error      { return s.file.SetDeadline(t) }
func (s *stream) SetReadDeadline(t time.Time) error  { return s.file.SetReadDeadline(t) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.file.SetWriteDeadline(t) }

func (s *stream) LocalAddr() net.Addr  { return handed{} }
func (s *stream) RemoteAddr() net.Addr { return handed{} }

// handed is the address of a socket whose address only the owner knows.
type handed struct{}

func (handed) Network() string { return "handed" }
func (handed) String() string  { return "handed over by the owner" }
