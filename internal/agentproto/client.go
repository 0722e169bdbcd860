package agentproto

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// killPatience is how long the guest may take to report the exit of a program that is to be killed
// before the connection is given up.
const killPatience = 5 * time.Second

// maxEntries and maxNames, in bytes of names and link targets, bound what a guest can make the host
// hold for one listing.
const (
	maxEntries = 1 << 20
	maxNames   = 64 << 20
)

// Client does operations on a guest, each on a connection that it has for itself meanwhile. Its methods may be
// called concurrently. Errors of the guest are Failures; those of the connection are passed on as they
// are; when ctx ends, its error is returned.
type Client struct {
	// Dial opens a connection to the agent.
	Dial func(ctx context.Context) (net.Conn, error)
	// Keep has one connection kept open for the next operation when one has ended. It is for channels on which
	// a connection takes an exchange with the guest, and ends only with the guest.
	Keep bool

	kept keptConn
}

// Traffic counts the bytes of an exchange without bulk data.
type Traffic struct{ Sent, Received int }

// Ping waits for a sign of life.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.simple(ctx, Request{Op: OpPing})
	return err
}

// Configure applies cfg. It is the first operation after boot and after a restore.
func (c *Client) Configure(ctx context.Context, cfg Config) error {
	return c.become(ctx, OpConfigure, cfg)
}

// Freeze stops all programs of the guest. They are thawed by Thaw, and by Configure followed by
// Thaw after a restore.
func (c *Client) Freeze(ctx context.Context) error {
	_, err := c.simple(ctx, Request{Op: OpFreeze})
	return err
}

// Thaw applies cfg and then lets the programs go on.
func (c *Client) Thaw(ctx context.Context, cfg Config) error {
	return c.become(ctx, OpThaw, cfg)
}

// ThawCopy is Thaw in a machine that is a copy of another one. It gets a machine ID and a boot ID of its own, and programs
// whose connections are gone with the other machine go on.
func (c *Client) ThawCopy(ctx context.Context, cfg Config) error {
	_, _ = rand.Read(cfg.MachineID[:]) // never fails
	return c.Thaw(ctx, cfg)
}

// Stats returns what the programs use.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	payload, err := c.simple(ctx, Request{Op: OpStats})
	if err != nil {
		return Stats{}, err
	}
	return DecodeStats(payload)
}

// Exec runs a program. Streams, and the terminal, follow the rules of sandbox.Cmd.
func (c *Client) Exec(ctx context.Context, e Exec, stdin io.Reader, stdout, stderr io.Writer) (Exit, error) {
	call := call{output: stdout, errorOutput: stderr, killable: true}
	if e.Terminal != nil {
		t := e.Terminal.WithDefaults()
		e.Terminal, call.sizes = &t, t.Resize
		if stdin == nil {
			stdin = strings.NewReader("")
		}
		over := make(chan struct{})
		defer close(over)
		call.over = over
	}
	e.Input, call.input = stdin != nil, stdin
	payload, err := c.do(ctx, Request{Op: OpExec, Exec: e}, &call)
	if err != nil {
		return Exit{}, err
	}
	return DecodeExit(payload)
}

// Connect passes in, which may be nil, to a Unix socket and what its peer sends to out, until the peer has closed it. An agent
// that is older than this operation gives an error that wraps sandbox.ErrUnsupported.
func (c *Client) Connect(ctx context.Context, name string, in io.Reader, out io.Writer) error {
	if in == nil {
		in = strings.NewReader("")
	}
	_, err := c.do(ctx, Request{Op: OpConnect, Path: name}, &call{input: in, output: out})
	if failure, ok := errors.AsType[Failure](err); ok && failure.Code == FailOther && strings.HasSuffix(failure.Text, unknownOperation(OpConnect)) {
		return fmt.Errorf("%w: the agent: %s", sandbox.ErrUnsupported, failure.Text)
	}
	return err
}

// ReadFile copies a file's content to w.
func (c *Client) ReadFile(ctx context.Context, name string, w io.Writer) error {
	_, err := c.do(ctx, Request{Op: OpRead, Path: name}, &call{output: w})
	return err
}

// ReadRange copies up to size bytes of a file's content to w, from the offset on. The offset is not negative,
// and the size positive.
func (c *Client) ReadRange(ctx context.Context, name string, offset, size int64, w io.Writer) error {
	_, err := c.do(ctx, Request{Op: OpRead, Path: name, Offset: offset, Size: size}, &call{output: w})
	return err
}

// WriteFile replaces a file's content by that of r.
func (c *Client) WriteFile(ctx context.Context, name string, r io.Reader, perm fs.FileMode) error {
	_, err := c.do(ctx, Request{Op: OpWrite, Path: name, Perm: perm}, &call{input: r})
	return err
}

// ReadDir lists a directory.
func (c *Client) ReadDir(ctx context.Context, name string) ([]sandbox.FileInfo, error) {
	list, names := []sandbox.FileInfo{}, 0
	_, err := c.do(ctx, Request{Op: OpList, Path: name}, &call{entry: func(f sandbox.FileInfo) error {
		list = append(list, f)
		names += len(f.Name) + len(f.Target)
		if len(list) > maxEntries || names > maxNames {
			return fmt.Errorf("%w: more than %d directory entries, or %d bytes of them", ErrProtocol, maxEntries, maxNames)
		}
		return nil
	}})
	return list, err
}

// Stat describes a file.
func (c *Client) Stat(ctx context.Context, name string) (sandbox.FileInfo, error) {
	var info *sandbox.FileInfo
	_, err := c.do(ctx, Request{Op: OpStat, Path: name}, &call{entry: func(f sandbox.FileInfo) error {
		info = &f
		return nil
	}})
	if err == nil && info == nil {
		err = fmt.Errorf("%w: stat without a result", ErrProtocol)
	}
	if err != nil {
		return sandbox.FileInfo{}, err
	}
	return *info, nil
}

// Remove deletes a file or a tree.
func (c *Client) Remove(ctx context.Context, name string) error {
	_, err := c.simple(ctx, Request{Op: OpRemove, Path: name})
	return err
}

func (c *Client) simple(ctx context.Context, r Request) ([]byte, error) {
	return c.do(ctx, r, &call{})
}

// call is what one operation does with the frames that it exchanges.
type call struct {
	input               io.Reader
	output, errorOutput io.Writer
	entry               func(sandbox.FileInfo) error
	change              func(Change) error
	// killable: the guest can end the operation and still report a result.
	killable bool
	// sizes are those of the program's terminal, until over is closed.
	sizes <-chan sandbox.TerminalSize
	over  <-chan struct{}

	conn   net.Conn
	last   bool       // the guest's last frame has come; for who receives
	writes sync.Mutex // held for each frame written to conn

	mu     sync.Mutex
	cond   sync.Cond
	credit int   // input bytes that may be sent
	ended  bool  // no more input is to be sent
	cause  error // why the operation was broken off, if it was
}

// do runs an operation from its request to its last frame, whose payload it returns.
func (c *Client) do(ctx context.Context, r Request, op *call) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	request := r.Append(nil)
	if len(request) > MaxControl {
		return nil, fmt.Errorf("%s: %w: the request takes %d bytes, more than %d", r.Op, sandbox.ErrInvalid, len(request), MaxControl)
	}
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	over := false // nothing more is sent or awaited
	defer func() { c.disconnect(conn, over && r.Op != OpFreeze) }()
	op.conn, op.credit = conn, InputWindow
	op.cond.L = &op.mu

	stop := context.AfterFunc(ctx, func() { op.abort(ctx.Err()) })
	defer stop()
	defer op.endInput()

	go op.send(request)
	payload, err := op.receive()
	if sandbox.Observed(ctx) {
		// As on the wire; a failure is counted as an empty result.
		sent, received := AppendFrame(nil, KindRequest, request), AppendFrame(nil, KindDone, payload)
		sandbox.Observe(ctx, sandbox.Call{Plane: "agent", Op: r.Op.String(), Sent: len(sent), Received: len(received),
			Request: string(sent), Reply: string(received)})
	}
	ended := stop()
	op.mu.Lock()
	defer op.mu.Unlock()
	if op.cause != nil {
		return nil, op.cause
	}
	over = ended && op.input == nil && op.last
	return payload, err
}

func (op *call) write(kind Kind, payload []byte) error {
	op.writes.Lock()
	defer op.writes.Unlock()
	return WriteFrame(op.conn, kind, payload)
}

// abort breaks the operation off for the first cause given: a program is killed and its exit
// awaited, so that it is gone when the operation returns; for anything else, and when that takes
// too long, the connection is closed.
func (op *call) abort(cause error) {
	op.mu.Lock()
	first := op.cause == nil
	if first {
		op.cause = cause
	}
	op.ended = true
	op.cond.Broadcast()
	op.mu.Unlock()
	if !first {
		return
	}
	if !op.killable {
		_ = op.conn.Close()
		return
	}
	// The deadline also ends a write that the guest does not take.
	_ = op.conn.SetDeadline(time.Now().Add(killPatience))
	go func() {
		if op.write(KindKill, nil) != nil {
			_ = op.conn.Close()
		}
	}()
}

func (op *call) endInput() {
	op.mu.Lock()
	op.ended = true
	op.cond.Broadcast()
	op.mu.Unlock()
}

// receive handles frames until the last one.
func (op *call) receive() ([]byte, error) {
	frames := NewReader(op.conn)
	for {
		f, err := frames.Next()
		if err != nil {
			return nil, err
		}
		switch f.Kind {
		case KindOutput:
			op.deliver(op.output, f.Payload)
		case KindErrorOutput:
			op.deliver(op.errorOutput, f.Payload)
		case KindCredit:
			err = op.addCredit(f.Payload)
		case KindInputClosed:
			op.endInput()
		case KindEntry:
			err = op.addEntry(f.Payload)
		case KindChange:
			err = op.addChange(f.Payload)
		case KindDone:
			op.last = true
			return f.Payload, nil
		case KindFail:
			op.last = true
			failure, err := DecodeFailure(f.Payload)
			if err != nil {
				return nil, err
			}
			return nil, failure
		default:
			err = fmt.Errorf("%w: frame of kind %d from the guest", ErrProtocol, f.Kind)
		}
		if err != nil {
			return nil, err
		}
	}
}

// deliver hands output to the caller. Once the caller has failed to take it, or nobody wants it any
// more, what still comes is dropped, so that the last frame gets through.
func (op *call) deliver(w io.Writer, data []byte) {
	if w == nil {
		return
	}
	op.mu.Lock()
	broken := op.cause != nil
	op.mu.Unlock()
	if broken {
		return
	}
	if _, err := w.Write(data); err != nil {
		op.abort(fmt.Errorf("deliver output: %w", err))
	}
}

func (op *call) addCredit(payload []byte) error {
	if len(payload) != 4 {
		return fmt.Errorf("%w: credit of %d bytes", ErrProtocol, len(payload))
	}
	n := binary.LittleEndian.Uint32(payload)
	op.mu.Lock()
	defer op.mu.Unlock()
	if n > InputWindow || op.credit+int(n) > InputWindow {
		return fmt.Errorf("%w: more credit than the window has", ErrProtocol)
	}
	op.credit += int(n)
	op.cond.Broadcast()
	return nil
}

func (op *call) addEntry(payload []byte) error {
	if op.entry == nil {
		return fmt.Errorf("%w: directory entry out of place", ErrProtocol)
	}
	info, err := DecodeFileInfo(payload)
	if err != nil {
		return err
	}
	return op.entry(info)
}

// takeCredit waits until input may be sent and returns how much, at most want; 0 when no more is
// to be sent at all.
func (op *call) takeCredit(want int) int {
	op.mu.Lock()
	defer op.mu.Unlock()
	for op.credit == 0 && !op.ended {
		op.cond.Wait()
	}
	if op.ended {
		return 0
	}
	n := min(want, op.credit)
	op.credit -= n
	return n
}

// send sends the request and then the input until it ends. It is a goroutine of its own, since a
// guest that takes nothing must not keep the operation from ending, and outlives the operation if a
// Read of the input does.
func (op *call) send(request []byte) {
	if op.write(KindRequest, request) != nil || op.input == nil {
		return // the receiver sees what is wrong with the connection
	}
	if op.sizes != nil {
		go op.resize()
	}
	buf := make([]byte, HeaderSize+MaxData)
	for {
		n, err := op.input.Read(buf[HeaderSize:])
		for sent := 0; sent < n; {
			part := op.takeCredit(n - sent)
			if part == 0 {
				return
			}
			if op.sendPart(buf, sent, part) != nil {
				return
			}
			sent += part
		}
		switch {
		case errors.Is(err, io.EOF):
			_ = op.write(KindInputEnd, nil)
			return
		case err != nil:
			op.abort(fmt.Errorf("read input: %w", err))
			return
		}
	}
}

// resize sends the sizes of the terminal. It is a goroutine of its own, since the input may come late.
func (op *call) resize() {
	for {
		select {
		case size, more := <-op.sizes:
			if !more || size.Valid() && op.write(KindResize, AppendSize(nil, size)) != nil {
				return
			}
		case <-op.over:
			return
		}
	}
}

// sendPart sends size bytes of the input in buf from the offset from. The header takes the place of
// bytes that have been sent already, or of the room before them.
func (op *call) sendPart(buf []byte, from, size int) error {
	op.writes.Lock()
	defer op.writes.Unlock()
	_, err := op.conn.Write(SealFrame(buf[from:from+HeaderSize+size], KindInput))
	return err
}
