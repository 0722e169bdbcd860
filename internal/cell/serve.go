package cell

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/vmm"
)

const (
	// drainPatience is how long a cell whose guest has ended goes on passing on what the guest has sent.
	drainPatience = 500 * time.Millisecond
)

// server is the cell's end of the protocol.
type server struct {
	link *os.File // a packet socket
	vm   *vmm.VM

	orders  chan order // one after the other
	streams sync.WaitGroup
	idle    *idle

	mu      sync.Mutex
	dials   map[uint64]context.CancelFunc
	upcalls map[uint64]chan answer
	next    uint64
}

// order is a request to pause, resume or branch, or for the memory that was touched.
type order struct {
	id   uint64
	kind kind
	file *stream // of a branch
}

// answer is the owner's answer to an upcall.
type answer struct {
	message
	file *stream // may be nil
}

// newServer makes the Go runtime wait for the socket in its poller, which thereby is there when the
// process cannot make one any more.
func newServer(fd int) (*server, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	return &server{
		link: os.NewFile(uintptr(fd), "owner"), orders: make(chan order, maxCalls), idle: newIdle(),
		dials: map[uint64]context.CancelFunc{}, upcalls: map[uint64]chan answer{},
	}, nil
}

// send writes a message. The kernel keeps packets whole.
func (s *server) send(m message) error {
	b, err := encode(&m)
	if err != nil {
		return err
	}
	if _, err := s.link.Write(b); err != nil {
		return fmt.Errorf("tell the owner: %w", err)
	}
	return nil
}

// serve does what the owner asks for until the guest or the owner ends.
func (s *server) serve() error {
	over := make(chan error, 1)
	go func() { over <- s.read() }()
	go s.obey()
	select {
	case err := <-over:
		return err
	case <-s.vm.Done():
	}
	end, err := s.vm.Wait(context.Background())
	if err != nil {
		return err
	}
	drained := make(chan struct{})
	go func() {
		s.streams.Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(drainPatience):
	}
	e := &endMessage{Reason: string(end.Reason), Detail: end.Detail}
	if end.Err != nil {
		e.Detail = end.Err.Error()
	}
	e.Detail = clip(e.Detail)
	return s.send(message{Kind: kindEnded, End: e})
}

// read takes the owner's messages until it ends, which is no error.
func (s *server) read() error {
	raw, err := s.link.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, maxMessage+1)
	rights := make([]byte, unix.CmsgSpace(4))
	for {
		var n, nr int
		var recvErr error
		err := raw.Read(func(fd uintptr) bool {
			n, nr, _, _, recvErr = unix.Recvmsg(int(fd), buf, rights, unix.MSG_CMSG_CLOEXEC)
			return !errors.Is(recvErr, unix.EAGAIN)
		})
		switch {
		case err != nil:
			return err
		case errors.Is(recvErr, unix.EINTR):
			continue
		case errors.Is(recvErr, unix.ECONNRESET), recvErr == nil && n == 0:
			return nil
		case recvErr != nil:
			return recvErr
		}
		file, err := received(rights[:nr])
		if err != nil {
			return err
		}
		m, err := decode(buf[:n])
		if err != nil {
			return err
		}
		if err := s.accept(m, file); err != nil {
			return err
		}
	}
}

// received returns the descriptor that came with a message, if one did.
func received(rights []byte) (*stream, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	list, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		fds, err := unix.ParseUnixRights(&c)
		if err != nil {
			return nil, err
		}
		if len(fds) == 1 {
			return newStream(fds[0])
		}
	}
	return nil, nil
}

func (s *server) accept(m message, file *stream) error {
	switch m.Kind {
	case kindDial:
		if file == nil {
			return errors.New("dial without a socket")
		}
		ctx, cancel := context.WithCancel(context.Background())
		s.mu.Lock()
		s.dials[m.ID] = cancel
		s.mu.Unlock()
		s.streams.Go(func() { s.dial(ctx, m, file) })
	case kindCancel:
		s.mu.Lock()
		defer s.mu.Unlock()
		if cancel := s.dials[m.ID]; cancel != nil {
			cancel()
		}
	case kindPause, kindResume, kindTouched:
		s.orders <- order{id: m.ID, kind: m.Kind}
	case kindBranch:
		if file == nil {
			return errors.New("branch without a socket")
		}
		s.orders <- order{m.ID, m.Kind, file}
	case kindAnswer:
		s.mu.Lock()
		waiting := s.upcalls[m.ID]
		delete(s.upcalls, m.ID)
		s.mu.Unlock()
		if waiting == nil {
			if file != nil {
				_ = file.Close()
			}
			return nil
		}
		waiting <- answer{m, file}
	default:
		return fmt.Errorf("the owner sends a %q message", m.Kind)
	}
	return nil
}

// obey pauses, resumes and branches, and tells what was touched.
func (s *server) obey() {
	for o := range s.orders {
		var err error
		var pages []uint64
		switch o.kind {
		case kindPause:
			s.vm.Pause()
		case kindResume:
			s.vm.Resume()
		case kindBranch:
			err = errors.Join(s.branch(o.file), o.file.Close())
		case kindTouched:
			pages, err = s.touched()
		}
		_ = s.send(message{Kind: kindReply, ID: o.id, Pages: pages, Failure: fail(err)}) // without an owner the cell ends anyway
	}
}

// dial connects the owner's socket to the guest's, and passes on until both directions have ended.
func (s *server) dial(ctx context.Context, m message, host *stream) {
	s.idle.busy()
	defer s.idle.busy()
	guest, err := s.vm.Dial(ctx, m.Port)
	s.mu.Lock()
	s.dials[m.ID]() // gives back what the context holds
	delete(s.dials, m.ID)
	s.mu.Unlock()
	_ = s.send(message{Kind: kindReply, ID: m.ID, Failure: fail(err)})
	if err != nil {
		_ = host.Close()
		return
	}
	splice(guest, host)
}

// network is the guest's network, whose flows the owner opens.
func (s *server) network(part *networkPart) *vmm.Network {
	n := &vmm.Network{Allow: part.Allow, Interface: part.Interface, Dial: s.openFlow, Resolve: s.resolve}
	if part.Report {
		n.Denied = s.denied
	}
	return n
}

func (s *server) openFlow(ctx context.Context, protocol, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	a, err := s.upcall(ctx, message{Kind: kindFlow, Flow: &flowMessage{Protocol: protocol, To: to}})
	if err != nil {
		return nil, err
	}
	if a.file == nil {
		return nil, errors.New("the owner has sent no socket")
	}
	return a.file, nil
}

func (s *server) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	a, err := s.upcall(ctx, message{Kind: kindResolve, Name: name})
	return a.Addrs, err
}

// upcall asks the owner for something and waits for the answer.
func (s *server) upcall(ctx context.Context, m message) (answer, error) {
	waiting := make(chan answer, 1)
	s.mu.Lock()
	if len(s.upcalls) >= maxOpening {
		s.mu.Unlock()
		return answer{}, errors.New("too many flows are being opened")
	}
	s.next++
	m.ID = s.next
	s.upcalls[m.ID] = waiting
	s.mu.Unlock()
	err := s.send(m)
	if err == nil {
		select {
		case a := <-waiting:
			if err := a.Failure.err(); err != nil && a.file != nil {
				_ = a.file.Close()
			}
			return a, a.Failure.err()
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	// The owner's answer counts against what it does for this cell at one time, so the place is kept
	// until it comes; it is then dropped.
	go func() {
		if a := <-waiting; a.file != nil {
			_ = a.file.Close()
		}
	}()
	return answer{}, err
}

// denied reports what the guest was refused. The network bounds how often.
func (s *server) denied(f vmm.Flow) {
	name := f.Name[:min(len(f.Name), maxName)]
	flow := &flowMessage{Protocol: f.Protocol, To: f.To, Count: min(f.Count, maxDenied)}
	_ = s.send(message{Kind: kindDenied, Flow: flow, Name: name})
}
