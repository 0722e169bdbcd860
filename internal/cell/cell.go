package cell

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aethervm/aether/internal/tail"
)

// ErrEnded is wrapped by the error of Cell.End, and by those of calls that a cell's end has cut short or
// that came after it; their text says how it ended.
var ErrEnded = errors.New("cell: the virtual machine has ended")

// ErrMemory is wrapped, beside ErrEnded, by the error of a cell that the kernel has killed because it had reached its limit
// of memory. The limit is above what guest and process need, so that no guest reaches it by what it writes.
var ErrMemory = errors.New("cell: the limit of memory was reached")

const (
	// consoleTail is how much of the guest's console is kept: a panic's report with its call traces.
	consoleTail = 16 << 10
	// messagesTail is how much of what the process itself says is kept: the head of a Go panic is what
	// counts of it, and the stacks of a small process fit.
	messagesTail = 16 << 10
)

// Cell is a running cell. Its methods may be called concurrently.
type Cell struct {
	cfg     Config
	process *process
	link    *link                 // nil until the process runs
	flows   atomic.Pointer[flows] // nil without a network
	share   int64                 // what it may have in a control group that it shares, without layers, in bytes
	allowed int64                 // what it may have beyond what its process began with, without layers, in bytes; guarded by the process

	// What the process has said, for the goroutine that serves the link and for who comes after it.
	said     *endMessage
	patience *time.Timer // of what follows

	branching sync.Mutex           // held while a branch is taken; guards what follows
	given     map[fileID]*layerUse // layers of the branch that it was started from; nil after its end
	own       map[fileID]*layerUse // layers that are charged to this cell, as far as the owner knows
	lost      int64                // what is allowed for one that the owner does not know, in bytes
	settling  int64                // what is allowed for layers that the last branch has left and the cell frees a moment later, in bytes

	console *console
	output  *os.File      // what the guest writes to it, in a process that it shares; else that is the process's output
	read    chan struct{} // closed when all of that has been read

	done chan struct{}
	end  *EndError // set before done is closed

	closing sync.Once
	closed  chan struct{} // closed by Close, before it ends the process
	err     error
}

// Start starts a cell and its virtual machine. The guest is booting when it returns. When ctx ends
// before that, what was begun is undone; afterwards ctx has no meaning for the cell.
func Start(ctx context.Context, cfg Config) (*Cell, error) {
	return start(ctx, cfg, trial{})
}

// newCell returns a cell in a process that may not run yet.
func newCell(cfg Config, p *process) *Cell {
	return &Cell{
		cfg: cfg, process: p, given: map[fileID]*layerUse{}, console: &console{keep: tail.New(consoleTail)},
		done: make(chan struct{}), closed: make(chan struct{}),
	}
}

func start(ctx context.Context, cfg Config, try trial) (*Cell, error) {
	cfg.settle()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s, err := prepare(ctx, SpareConfig{ID: cfg.ID, Program: cfg.Program, VCPUs: cfg.VCPUs, MemoryMiB: cfg.MemoryMiB}, try)
	if err != nil {
		return nil, err
	}
	return s.Start(ctx, cfg)
}

// trial is what a test changes.
type trial struct {
	attempt    string // what the confined process is to try; see attempts
	unfiltered bool   // without the system call filter
	way        string // the only way to start it; see ways
}

// Dial opens a stream to a port that a program of the guest listens on: a vsock connection. It waits
// until the guest has a driver for its sockets, or ctx ends. A port where nobody listens gives an error
// that wraps syscall.ECONNREFUSED. The connection has CloseWrite, and deadlines.
func (c *Cell) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	ours, theirs, err := streamPair()
	if err != nil {
		return nil, err
	}
	_, err = c.call(ctx, message{Kind: kindDial, Port: port}, theirs)
	if err := errors.Join(err, theirs.Close()); err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("dial port %d of the guest: %w", port, err)
	}
	return ours, nil
}

// Pause stops the guest's processors and devices until the matching Resume. Pauses nest. When ctx ends
// before it is done, it is undone.
func (c *Cell) Pause(ctx context.Context) error {
	_, err := c.call(ctx, message{Kind: kindPause})
	if err != nil && errors.Is(err, context.Cause(ctx)) {
		// The cell does one after the other.
		c.link.request(message{Kind: kindResume})
	}
	if err != nil {
		return fmt.Errorf("pause the guest: %w", err)
	}
	return nil
}

// Resume ends a Pause. It is done, late, even if ctx ends first.
func (c *Cell) Resume(ctx context.Context) error {
	if _, err := c.call(ctx, message{Kind: kindResume}); err != nil {
		return fmt.Errorf("resume the guest: %w", err)
	}
	return nil
}

// GiveBack has the cell give back memory of the guest that is as it was when the cell was started from a branch, or last branched,
// and returns how many bytes that are, by what the cell says. It is for a guest that is paused, and will be for a while: what it writes
// there costs once more.
func (c *Cell) GiveBack(ctx context.Context) (uint64, error) {
	reply, err := c.call(ctx, message{Kind: kindGiveBack})
	if err != nil {
		return 0, fmt.Errorf("give back the guest's memory: %w", err)
	}
	return reply.Given, nil
}

// Sent is how many bytes the guest has sent to its network card since the cell was started, headers included; 0 if it has
// none. It is what the cell says.
func (c *Cell) Sent(ctx context.Context) (int64, error) {
	reply, err := c.call(ctx, message{Kind: kindSent})
	if err != nil {
		return 0, fmt.Errorf("ask what the guest has sent: %w", err)
	}
	return reply.Sent, nil
}

// call has the cell do something and waits for its reply.
func (c *Cell) call(ctx context.Context, request message, files ...fder) (message, error) {
	reply, err := c.link.call(ctx, request, files...)
	if errors.Is(err, errLinkClosed) {
		// The process is no more, or is about to be.
		select {
		case <-c.done:
			return message{}, c.end
		case <-c.closed:
			return message{}, fmt.Errorf("%w: closed", ErrEnded)
		case <-ctx.Done():
			return message{}, context.Cause(ctx)
		}
	}
	return reply, err
}

// Done is closed when the virtual machine has ended: the guest has ended it, or the process is no more.
// What the cell holds is freed by Close.
func (c *Cell) Done() <-chan struct{} { return c.done }

// End returns nil before Done is closed, and an *EndError after that.
func (c *Cell) End() error {
	select {
	case <-c.done:
		return c.end
	default:
		return nil
	}
}

// PID is the process's ID, for what looks at the process: memory, confinement. The process runs the
// guest, and those of all cells that share it. Once Done is closed it may be another process's.
func (c *Cell) PID() int { return c.process.pid }

// Shares tells whether the process is for other cells, too.
func (c *Cell) Shares() bool { return c.process.places > 1 }

// ID is that of the Config.
func (c *Cell) ID() string { return c.cfg.ID }

// Console returns the last lines that the guest has written to its serial console, 16 KiB at most,
// without control characters.
func (c *Cell) Console() []string { return c.console.keep.Lines() }

// Confinement tells what confines the process.
func (c *Cell) Confinement() Confinement { return slices.Clone(c.process.confinement) }

// Close ends the virtual machine at once, as pulling the plug does, and frees all that the cell has on this host: its
// process as well, unless others share it. Connections to the guest end. It is idempotent; every call returns after
// that is done.
func (c *Cell) Close() error {
	c.closing.Do(func() {
		close(c.closed)
		c.err = c.free()
	})
	return c.err
}

func (c *Cell) free() error {
	last := c.process.leave()
	var errs []error
	if c.link != nil {
		if last {
			errs = append(errs, c.process.kill(), c.link.close())
			<-c.done
		} else {
			errs = append(errs, c.leaveOthers())
		}
	}
	if f := c.flows.Load(); f != nil { // after the last message
		f.close()
	}
	c.letGo() // what has mapped them is gone
	c.process.forget(c)
	if last {
		errs = append(errs, c.process.free())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close cell %s: %w", c.cfg.ID, err)
	}
	return nil
}

// Reasons of an EndError beside those of vmm.Reason.
const (
	// ReasonProcess is the reason where the process has ended and not said why.
	ReasonProcess = "the cell's process has ended"
	// ReasonMemory is the reason where the kernel has killed the process for the limit of its control group; see ErrMemory.
	ReasonMemory = "out of memory"
	// ReasonClosed is the reason after Close.
	ReasonClosed = "closed"
)

// EndError says how a cell has ended. It wraps ErrEnded.
type EndError struct {
	// Reason is a vmm.Reason if the cell has told it, or one of the above.
	Reason string
	// Detail is the message of the guest's panic, the signal that ended the process, or what else is
	// known; may be empty.
	Detail string
	// Messages are the last lines of what the process itself has said: something if it failed.
	Messages []string
	// Console are the last lines of what the guest wrote to its serial console.
	Console []string
}

// Error names the reason and the detail, and the last lines of the process and of the console.
func (e *EndError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: %s", ErrEnded, e.Reason)
	if e.Detail != "" {
		fmt.Fprintf(&b, ": %s", e.Detail)
	}
	if n := min(4, len(e.Messages)); n > 0 {
		fmt.Fprintf(&b, "; process: %s", tail.Join(e.Messages[:n]))
	}
	if n := min(6, len(e.Console)); n > 0 {
		fmt.Fprintf(&b, "; console: %s", tail.Join(e.Console[len(e.Console)-n:]))
	}
	return b.String()
}

// Unwrap returns ErrEnded, and ErrMemory if that was why.
func (e *EndError) Unwrap() []error {
	if e.Reason == ReasonMemory {
		return []error{ErrEnded, ErrMemory}
	}
	return []error{ErrEnded}
}
