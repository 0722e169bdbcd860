package cell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
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
	buf  []byte   // for what is read from it
	vm   *vmm.VM

	// For building it.
	device           *os.File   // KVM, if there is no shell yet
	shell            *vmm.Shell // nil if there is none yet
	pages            *os.File
	console          *os.File
	disks            []*os.File // while it runs
	vcpus, memoryMiB int

	reading sync.WaitGroup // of the link
	obeying sync.WaitGroup
	streams sync.WaitGroup
	idle    *idle

	mu      sync.Mutex
	over    bool    // there is no guest any more: nothing is begun
	orders  []order // of the owner, who bounds them, that were not begun; they are done one after the other
	obeys   bool    // somebody does them
	dials   map[uint64]context.CancelFunc
	hosts   map[*stream]struct{} // the owner's ends of streams
	upcalls map[uint64]chan answer
	next    uint64
}

// order is a request to pause, resume or branch, or about the memory.
type order struct {
	id     uint64
	kind   kind
	file   *stream // of a branch
	copies int     // that the branch is for
	memory *memoryMessage
}

// answer is the owner's answer to an upcall.
type answer struct {
	message
	file *stream // may be nil
}

// newServer makes the Go runtime wait for the socket in its poller, which thereby is there when the
// process cannot make one any more.
func newServer(fd int, idle *idle) (*server, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	return &server{
		link: os.NewFile(uintptr(fd), "owner"), buf: make([]byte, maxMessage+1), idle: idle,
		dials: map[uint64]context.CancelFunc{}, hosts: map[*stream]struct{}{}, upcalls: map[uint64]chan answer{},
	}, nil
}

// send writes a message. The kernel keeps packets whole.
func (s *server) send(m message) error {
	b, err := encode(&m)
	if err != nil {
		return err
	}
	err = insist(func() error {
		_, err := s.link.Write(b)
		return err
	})
	if err != nil {
		// The owner would wait for ever for what it does not get: better that the cell ends.
		return errors.Join(fmt.Errorf("tell the owner: %w", err), s.link.Close())
	}
	return nil
}

// serve does what the owner asks for until the guest or the owner ends. It returns how the guest has ended if that was first.
func (s *server) serve() (*endMessage, error) {
	over := make(chan error, 1)
	s.reading.Go(func() { over <- s.read() })
	select {
	case err := <-over:
		return nil, err
	case <-s.vm.Done():
	}
	end, err := s.vm.Wait(context.Background())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
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
	return e, nil
}

// read takes the owner's messages until it ends, which is no error.
func (s *server) read() error {
	rights := make([]byte, unix.CmsgSpace(4))
	for {
		m, fds, err := s.receive(rights)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var file *stream // none where this process has no descriptor left for it
		if len(fds) > 0 {
			if file, err = newStream(fds[0]); err != nil {
				file = nil
			}
		}
		if err := s.accept(m, file); err != nil {
			return err
		}
	}
}

// receive waits for the owner's next message and the descriptors that come with it, for which rights has room. io.EOF
// means that the owner has ended.
func (s *server) receive(rights []byte) (message, []int, error) {
	raw, err := s.link.SyscallConn()
	if err != nil {
		return message{}, nil, err
	}
	var n, nr int
	var recvErr error
	for {
		err := raw.Read(func(fd uintptr) bool {
			recvErr = insist(func() (err error) {
				n, nr, _, _, err = unix.Recvmsg(int(fd), s.buf, rights, unix.MSG_CMSG_CLOEXEC)
				return err
			})
			return !errors.Is(recvErr, unix.EAGAIN)
		})
		if err == nil && errors.Is(recvErr, unix.EINTR) {
			continue
		}
		switch {
		case err != nil:
			return message{}, nil, err
		case errors.Is(recvErr, unix.ECONNRESET), recvErr == nil && n == 0:
			return message{}, nil, io.EOF
		case recvErr != nil:
			return message{}, nil, recvErr
		}
		break
	}
	fds, err := received(rights[:nr])
	if err != nil {
		return message{}, nil, err
	}
	m, err := decode(s.buf[:n])
	return m, fds, err
}

// received returns the descriptors that came with a message.
func received(rights []byte) ([]int, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	list, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, c := range list {
		fds, err := unix.ParseUnixRights(&c)
		if err != nil {
			return nil, err
		}
		all = append(all, fds...)
	}
	return all, nil
}

func (s *server) accept(m message, file *stream) error {
	switch m.Kind {
	case kindDial:
		if file == nil {
			return s.refuse(m.ID, errNoSocket)
		}
		s.mu.Lock()
		if s.over {
			s.mu.Unlock()
			_ = file.Close()
			return s.refuse(m.ID, vmm.ErrEnded)
		}
		defer s.mu.Unlock()
		ctx, cancel := context.WithCancel(context.Background())
		s.dials[m.ID] = cancel
		s.streams.Go(func() { s.dial(ctx, m, file) }) // not when it is over: somebody waits for them then
	case kindCancel:
		s.mu.Lock()
		defer s.mu.Unlock()
		if cancel := s.dials[m.ID]; cancel != nil {
			cancel()
		}
	case kindSent:
		return s.send(message{Kind: kindReply, ID: m.ID, Sent: int64(min(s.vm.Sent(), math.MaxInt64))})
	case kindPause, kindResume, kindTouched, kindGiveBack:
		return s.order(order{id: m.ID, kind: m.Kind})
	case kindMemory:
		return s.order(order{id: m.ID, kind: m.Kind, memory: m.Memory})
	case kindBranch:
		if file == nil {
			return s.refuse(m.ID, errNoSocket)
		}
		return s.order(order{id: m.ID, kind: m.Kind, file: file, copies: m.Copies})
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

// errNoSocket: the kernel drops the socket of a request where the process has no descriptor for it.
var errNoSocket = fmt.Errorf("the cell cannot take its socket: %w", unix.EMFILE)

// refuse tells the owner that a request has failed.
func (s *server) refuse(id uint64, err error) error {
	return s.send(message{Kind: kindReply, ID: id, Failure: fail(err)})
}

// order has something done after what was ordered before. A cell that has nothing to do has no goroutine for it.
func (s *server) order(o order) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		if o.file != nil {
			_ = o.file.Close()
		}
		return s.refuse(o.id, vmm.ErrEnded)
	}
	s.orders = append(s.orders, o)
	if !s.obeys {
		s.obeys = true
		s.obeying.Go(s.obey)
	}
	return nil
}

// nextOrder takes the order that is to be done now. ok is false if there is none, and then the caller is to end.
func (s *server) nextOrder() (o order, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.orders) == 0 {
		s.orders, s.obeys = nil, false
		return order{}, false
	}
	o, s.orders = s.orders[0], s.orders[1:]
	return o, true
}

// obey pauses, resumes and branches, and tells about the memory, until there is nothing to do.
func (s *server) obey() {
	for o, ok := s.nextOrder(); ok; o, ok = s.nextOrder() {
		var err error
		var pages []uint64
		var memory *memoryMessage
		var given uint64
		switch o.kind {
		case kindPause:
			s.vm.Pause()
		case kindResume:
			s.vm.Resume()
		case kindBranch:
			err = errors.Join(s.branch(o.file, o.copies), o.file.Close())
		case kindGiveBack:
			given, err = s.vm.GiveBack()
		case kindTouched:
			pages, err = s.touched()
		case kindMemory:
			memory, err = s.memory(o.memory)
		}
		if err := s.send(message{Kind: kindReply, ID: o.id, Pages: pages, Memory: memory, Given: given, Failure: fail(err)}); err != nil {
			_ = s.refuse(o.id, err) // it was too long; without an owner the cell ends anyway
		}
	}
}

// dial connects the owner's socket to the guest's, and passes on until both directions have ended.
func (s *server) dial(ctx context.Context, m message, host *stream) {
	s.idle.busy()
	defer s.idle.busy()
	guest, err := s.vm.Dial(ctx, m.Port)
	s.mu.Lock()
	s.hosts[host] = struct{}{}
	s.dials[m.ID]() // gives back what the context holds
	delete(s.dials, m.ID)
	s.mu.Unlock()
	_ = s.send(message{Kind: kindReply, ID: m.ID, Failure: fail(err)})
	if err != nil {
		_ = host.Close()
	} else {
		splice(guest, host, s.idle.busy)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.hosts, host)
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
