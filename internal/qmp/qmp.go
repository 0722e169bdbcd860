// Package qmp is a client of QEMU's machine protocol: JSON over a Unix socket, one command at a
// time. https://www.qemu.org/docs/master/interop/qmp-spec.html
//
// QEMU is foreign here: it serves a guest that may have taken it over, so lines are capped, what
// does not decode ends the connection, and events of no interest are dropped.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

// maxLine caps a message of QEMU. The longest answers to the commands in use take a few KiB.
const maxLine = 1 << 20

// ErrProtocol is wrapped by errors about a peer that does not speak QMP.
var ErrProtocol = errors.New("QMP violated")

// Error is QEMU's own answer that a command failed.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *Error) Error() string { return e.Desc }

// Client is a connection to a monitor. Its methods may be called concurrently.
type Client struct {
	conn *net.UnixConn

	sends  sync.Mutex // held for each command written
	nextID atomic.Uint64

	mu      sync.Mutex
	waiting map[uint64]chan message // by command ID
	events  map[string]chan struct{}
	err     error // why reading ended
	ended   chan struct{}
}

// message is anything that QEMU sends.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Event    string          `json:"event"`
	ID       *uint64         `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *Error          `json:"error"`
}

type command struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// New waits for QEMU's greeting on conn and answers it. The client owns conn, also on failure.
func New(ctx context.Context, conn *net.UnixConn) (*Client, error) {
	c := &Client{
		conn: conn, waiting: map[uint64]chan message{}, events: map[string]chan struct{}{},
		ended: make(chan struct{}),
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	lines := newScanner(conn)
	greeting, err := next(lines)
	if err == nil && greeting.Greeting == nil {
		err = fmt.Errorf("%w: no greeting", ErrProtocol)
	}
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to the monitor: %w", err)
	}
	go c.receive(lines)
	if err := c.Run(ctx, "qmp_capabilities", nil, nil); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the connection; commands in progress fail. It is idempotent.
func (c *Client) Close() error {
	err := c.conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func newScanner(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4<<10), maxLine)
	return s
}

func next(lines *bufio.Scanner) (message, error) {
	if !lines.Scan() {
		if err := lines.Err(); err != nil {
			return message{}, err
		}
		return message{}, io.ErrUnexpectedEOF
	}
	return decode(lines.Bytes())
}

func decode(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return m, nil
}

// receive hands out what QEMU sends until the connection ends.
func (c *Client) receive(lines *bufio.Scanner) {
	defer close(c.ended)
	for {
		m, err := next(lines)
		c.mu.Lock()
		if err != nil {
			c.err = err
			c.mu.Unlock()
			return
		}
		if m.Event != "" {
			if ch, ok := c.events[m.Event]; ok {
				close(ch)
				delete(c.events, m.Event)
			}
		} else if m.ID != nil {
			if ch, ok := c.waiting[*m.ID]; ok {
				delete(c.waiting, *m.ID)
				ch <- m
			}
		}
		c.mu.Unlock()
	}
}

// Event returns a channel that is closed when the named event comes next. Ask before the command
// that leads to it. Each name has one waiter.
func (c *Client) Event(name string) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan struct{})
	c.events[name] = ch
	return ch
}

// Ended is closed when the connection has ended.
func (c *Client) Ended() <-chan struct{} { return c.ended }

// Run runs a command and decodes its result into result unless that is nil. An answer that the
// command failed is an *Error.
func (c *Client) Run(ctx context.Context, name string, arguments, result any) error {
	return c.run(ctx, name, arguments, result, nil)
}

// SendFile hands QEMU an open file under a name that later commands can use ("fd:NAME").
func (c *Client) SendFile(ctx context.Context, name string, f *os.File) error {
	return c.run(ctx, "getfd", map[string]string{"fdname": name}, nil, f)
}

func (c *Client) run(ctx context.Context, name string, arguments, result any, f *os.File) error {
	id := c.nextID.Add(1)
	request, err := json.Marshal(command{Execute: name, Arguments: arguments, ID: id})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	answer := make(chan message, 1)
	c.mu.Lock()
	c.waiting[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()

	if err := c.send(append(request, '\n'), f); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var m message
	select {
	case m = <-answer:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", name, ctx.Err())
	case <-c.ended:
		select {
		case m = <-answer: // it came last
		default:
			c.mu.Lock()
			defer c.mu.Unlock()
			return fmt.Errorf("%s: %w", name, c.err)
		}
	}
	reply := m.Return
	if sandbox.Observed(ctx) {
		if m.Error != nil {
			reply, _ = json.Marshal(m.Error) // strings always encode
		}
		sandbox.Observe(ctx, sandbox.Call{
			Plane: "qmp", Op: name, Sent: len(request) + 1, Received: len(reply),
			Request: string(request), Reply: string(reply),
		})
	}
	switch {
	case m.Error != nil:
		return fmt.Errorf("%s: %w", name, m.Error)
	case result == nil:
		return nil
	}
	if err := json.Unmarshal(reply, result); err != nil {
		return fmt.Errorf("%s: %w: %w", name, ErrProtocol, err)
	}
	return nil
}

// send writes one command. Commands are short: a monitor that lives takes them at once.
func (c *Client) send(request []byte, f *os.File) error {
	c.sends.Lock()
	defer c.sends.Unlock()
	if f == nil {
		_, err := c.conn.Write(request)
		return err
	}
	_, _, err := c.conn.WriteMsgUnix(request, unix.UnixRights(int(f.Fd())), nil)
	return err
}
