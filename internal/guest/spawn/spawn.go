// Package spawn runs programs as descendants of a sandbox's PID 1.
//
// A program that a system's own exec starts is no descendant of PID 1, and gVisor kills all such
// programs, with everything that they have started, in a sandbox that is restored from a
// checkpoint: what ran would not go on. So the program that exec starts is a mere client. It hands
// its standard streams, arguments and environment to a supervisor that PID 1 has started, and waits
// for the exit code.
//
// To start a process takes milliseconds in gVisor, so PID 1 always keeps one supervisor that waits
// for a client.
package spawn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guest/supervise"
)

// socket is an abstract name: it needs no directory that is writable, and PID 1 takes it before
// any other program can.
const socket = "@aether-spawn"

// File descriptors that a supervisor inherits besides its standard streams.
const (
	listenerFD = 3
	eventsFD   = 4 // the write end of a pipe: a byte when it is taken, and one when it is free again
)

// How long PID 1 waits for a supervisor to become free before it starts another one: shortRun where
// a client waits already, since a short program costs less than a start, longRun otherwise.
const (
	shortRun = 10 * time.Millisecond
	longRun  = 100 * time.Millisecond
)

// retryDelay is the pause after a supervisor that did not start, or has ended before its first client.
const retryDelay = 100 * time.Millisecond

// Listener is the side of PID 1.
type Listener struct{ fd int }

// Listen takes the name; from then on clients are kept waiting.
func Listen() (Listener, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return Listener{}, fmt.Errorf("listen for programs to start: %w", err)
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: socket}), unix.Listen(fd, unix.SOMAXCONN)); err != nil {
		_ = unix.Close(fd)
		return Listener{}, fmt.Errorf("listen for programs to start: %w", err)
	}
	return Listener{fd}, nil
}

// Serve keeps a supervisor that waits for a client: a process with the given arguments and
// environment that calls Supervise. It does not return. Somebody else must Reap.
func (l Listener) Serve(args, env []string) {
	for {
		if l.keep(args, env) != nil {
			time.Sleep(retryDelay)
		}
	}
}

// keep starts a supervisor and returns when there must be another one: when this one has ended, or
// is taken for long or while another client waits. From then on it is on its own.
func (l Listener) keep(args, env []string) error {
	var events [2]int
	if err := unix.Pipe2(events[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer func() { _ = unix.Close(events[0]) }()
	_, err := syscall.ForkExec(args[0], args, &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2, uintptr(l.fd), uintptr(events[1])}})
	_ = unix.Close(events[1])
	if err != nil {
		return err
	}
	if !read1(events[0]) {
		return errors.New("the supervisor ended before its first client")
	}
	for taken := true; taken; {
		ready := readable(shortRun, events[0])
		if len(ready) == 0 {
			ready = readable(longRun, events[0], l.fd)
		}
		// Free again, and taken again: two bytes.
		taken = slices.Contains(ready, events[0]) && read1(events[0]) && read1(events[0])
	}
	return nil
}

// forever is without end where poll takes milliseconds.
const forever = -time.Millisecond

// readable waits until there is something to read, and returns where.
func readable(timeout time.Duration, fds ...int) (ready []int) {
	list := make([]unix.PollFd, len(fds))
	for i, fd := range fds {
		list[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	for {
		_, err := unix.Poll(list, int(timeout.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		for _, p := range list {
			if p.Revents != 0 {
				ready = append(ready, int(p.Fd))
			}
		}
		return ready
	}
}

// read1 reads a byte and tells whether there was one.
func read1(fd int) bool {
	for {
		if n, err := unix.Read(fd, make([]byte, 1)); !errors.Is(err, unix.EINTR) {
			return n == 1
		}
	}
}

// Reap collects every child that has ended, orphans of the sandbox too. It is for SIGCHLD.
func Reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if !errors.Is(err, unix.EINTR) && pid <= 0 {
			return
		}
	}
}

// Supervise is a supervisor's whole life: it serves clients, one after the other. It ends when a
// program has left others running, which are PID 1's then, or has had a terminal. Once PID 1 has
// started another supervisor, it ends as soon as no client waits.
func Supervise() error {
	unix.CloseOnExec(listenerFD)
	unix.CloseOnExec(eventsFD)
	s := supervise.Prepare()
	for patience := forever; ; {
		if len(readable(patience, listenerFD)) == 0 {
			return nil
		}
		fd, err := accept()
		if errors.Is(err, unix.EAGAIN) { // another supervisor was faster, or the client was refused
			continue
		}
		if err != nil {
			return err
		}
		notify(&patience)
		terminal, err := serve(s, fd)
		if err != nil {
			return err // the client sees the connection end without a code
		}
		if terminal || !s.Idle() {
			return nil
		}
		notify(&patience)
	}
}

// notify tells PID 1 that this supervisor is taken or free. Where PID 1 does not listen any more,
// because it has another one, the patience to wait for clients ends.
func notify(patience *time.Duration) {
	if _, err := unix.Write(eventsFD, []byte{1}); err != nil {
		*patience = 0
	}
}

// serve tells whether the program had a terminal: something may then still wait for its input.
func serve(s *supervise.Supervisor, fd int) (terminal bool, err error) {
	conn := os.NewFile(uintptr(fd), "client")
	defer conn.Close()
	o, err := receive(conn)
	if err != nil {
		return false, err
	}
	kill, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		// The end of the connection is no reason to kill: that is what comes in a restored sandbox.
		if read1(fd) {
			close(kill)
		}
	}()
	o.Kill = kill
	_, _ = conn.Write(binary.BigEndian.AppendUint32(nil, uint32(s.Run(o)))) // the client may be gone
	_ = unix.Shutdown(fd, unix.SHUT_RDWR)
	<-done
	return o.Terminal != nil, nil
}

// accept takes a client that may have programs started. Only root may, since they run as root.
func accept() (int, error) {
	fd, _, err := unix.Accept4(listenerFD, unix.SOCK_CLOEXEC)
	if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
		return -1, unix.EAGAIN
	}
	if err != nil {
		return -1, err
	}
	if cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil && cred.Uid == 0 {
		return fd, nil
	}
	_ = unix.Close(fd)
	return -1, unix.EAGAIN
}

// A request has a head of two numbers of 4 bytes, big-endian: the length of the body and how many of
// its strings are arguments. The others are the environment. Each string ends with a NUL. The
// client's standard streams come with the first byte.
//
// The client may send one byte more: the program is to be killed. The reply is the exit code in 4
// bytes.
const headSize = 8

// maxBody bounds a request: arguments and environment, which the kernel bounds too.
const maxBody = 8 << 20

func request(args, env []string) (head, body []byte) {
	for _, list := range [][]string{args, env} {
		for _, s := range list {
			body = append(append(body, s...), 0)
		}
	}
	head = binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	return binary.BigEndian.AppendUint32(head, uint32(len(args))), body
}

func parseRequest(nArgs uint32, body string) (supervise.Options, error) {
	list := strings.Split(body, "\x00")
	list = list[:len(list)-1]
	if uint64(nArgs) > uint64(len(list)) {
		return supervise.Options{}, fmt.Errorf("%d arguments in %d strings", nArgs, len(list))
	}
	o, err := supervise.ParseOptions(list[:nArgs])
	o.Env = list[nArgs:]
	return o, err
}

// receive reads a request. After an error the process must end: descriptors may be left.
func receive(conn *os.File) (o supervise.Options, err error) {
	head := make([]byte, headSize)
	oob := make([]byte, unix.CmsgSpace(3*4))
	n, oobn, _, _, err := unix.Recvmsg(int(conn.Fd()), head, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return o, err
	}
	streams, err := parseStreams(oob[:oobn])
	if err != nil {
		return o, err
	}
	if _, err := io.ReadFull(conn, head[n:]); err != nil {
		return o, err
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxBody {
		return o, fmt.Errorf("a request of %d bytes", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(conn, body); err != nil {
		return o, err
	}
	o, err = parseRequest(binary.BigEndian.Uint32(head[4:]), string(body))
	o.Streams = streams
	return o, err
}

// parseStreams finds the descriptors in a control message.
func parseStreams(oob []byte) (streams [3]int, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return streams, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err == nil && copy(streams[:], fds) == len(streams) {
			return streams, nil
		}
	}
	return streams, errors.New("no standard streams")
}

// Run is the client: it has a supervisor run a program with this process's standard streams and
// environment and returns the exit code. args are for supervise.ParseOptions. SIGTERM kills the
// program.
func Run(args []string) (int, error) {
	kill := make(chan os.Signal, 1)
	signal.Notify(kill, unix.SIGTERM)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("ask PID 1: %w", err)
	}
	conn := os.NewFile(uintptr(fd), "supervisor")
	defer conn.Close()
	if err := connect(fd); err != nil {
		return 0, fmt.Errorf("connect to PID 1: %w", err)
	}
	head, body := request(args, os.Environ())
	if err := unix.Sendmsg(fd, head, unix.UnixRights(0, 1, 2), nil, 0); err != nil {
		return 0, fmt.Errorf("hand the streams over: %w", err)
	}
	if _, err := conn.Write(body); err != nil {
		return 0, fmt.Errorf("ask for a program: %w", err)
	}
	go func() {
		<-kill
		_, _ = conn.Write([]byte{1}) // it may be over
	}()
	reply := make([]byte, 4)
	if _, err := io.ReadFull(conn, reply); err != nil {
		return 0, fmt.Errorf("the supervisor did not run %q: %w", args, err)
	}
	return int(binary.BigEndian.Uint32(reply)), nil
}

// startTimeout is how long PID 1 may take until it listens: a system may start the first program as
// soon as PID 1 exists.
const startTimeout = 10 * time.Second

func connect(fd int) error {
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(time.Millisecond) {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
		if err == nil || !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			return err
		}
	}
}
