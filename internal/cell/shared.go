package cell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/aethervm/aether/internal/tail"
)

// MaxPlaces is how many cells may share a process. What one costs there hardly falls beyond eight (docs/FORK.md), and all of
// them end with the process.
const MaxPlaces = 64

// ErrFull is wrapped by the error of Shared.Start where all places are taken.
var ErrFull = errors.New("cell: all places of the process are taken")

// SharedConfig is what cells have in common that share a process.
type SharedConfig struct {
	// SpareConfig is as for one cell. The size is that of each virtual machine; ID names the control group.
	SpareConfig
	// Places is how many cells the process is for, 1 to MaxPlaces.
	Places int
}

// Shared is a confined process for several cells of one tenant, copies of one guest, say. Each has a virtual machine of its own
// and a socket of its own to the owner, and ends by itself; what the process costs, they share. So they do what confines it:
// a guest that breaks out of its virtual machine is where the others' memory is, and they end with the process. Its methods may be
// called concurrently.
type Shared struct{ process *process }

// Share starts a process for several cells. When ctx ends before it is confined, what was begun is undone.
func Share(ctx context.Context, cfg SharedConfig) (*Shared, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Places < 1 || cfg.Places > MaxPlaces {
		return nil, badConfig("%d places; 1 to %d are possible", cfg.Places, MaxPlaces)
	}
	p := newProcess(cfg.SpareConfig, cfg.Places, trial{})
	handle := func(m message) error {
		if m.Kind != kindConfined {
			return fmt.Errorf("it sends a %q message", m.Kind)
		}
		return p.sayConfined(m)
	}
	s := &Shared{p}
	err := p.begin(ctx, nil, handle, func() {
		go func() {
			if err := p.link.serve(); err != nil {
				p.condemn(err)
			}
			_ = p.kill()
			p.reap()
		}()
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a process for cells %s: %w", cfg.ID, err), s.Close())
	}
	return s, nil
}

// ID is that of the SharedConfig.
func (s *Shared) ID() string { return s.process.id }

// PID is the process's ID.
func (s *Shared) PID() int { return s.process.pid }

// Start starts a cell in the process, as the function does in one of its own. The program is the process's; the number of
// processors and the memory must be those that it was made for. A place that was taken is not free again when its cell has ended.
func (s *Shared) Start(ctx context.Context, cfg Config) (*Cell, error) {
	p := s.process
	cfg.settle()
	cfg.Program = p.program
	err := p.check(&cfg)
	if err == nil {
		err = p.enter()
	}
	if err != nil {
		return nil, fmt.Errorf("start cell %s: %w", cfg.ID, err)
	}
	c := newCell(cfg, p)
	if err = c.admit(ctx); err == nil {
		err = c.boot(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start cell %s: %w", cfg.ID, err), c.Close())
	}
	return c, nil
}

// Close has the process end with the last of its cells; there will be no more. It is idempotent.
func (s *Shared) Close() error {
	p := s.process
	p.mu.Lock()
	closed := p.closed
	p.closed = true
	p.mu.Unlock()
	if closed || !p.leave() {
		return nil
	}
	return p.free()
}

// enter takes a place for a cell.
func (p *process) enter() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return fmt.Errorf("%w: closed", ErrEnded)
	case p.taken >= p.places:
		return fmt.Errorf("%w: it has %d", ErrFull, p.places)
	}
	p.taken++
	p.users++
	return nil
}

// admit has the process serve the cell, over a link of its own.
func (c *Cell) admit(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, buildPatience, fmt.Errorf("it has not taken the guest in %v", buildPatience))
	defer cancel()
	ours, theirs, err := packetPair()
	if err != nil {
		return err
	}
	output, input, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("make the console's pipe: %w", err), ours.Close(), theirs.Close())
	}
	c.link, c.output, c.read = newLink(ours, c.handle), output, make(chan struct{})
	go c.readConsole()
	go c.watch()
	c.share = share(c.cfg.MemoryMiB)
	if err = c.allow(0); err == nil {
		_, err = c.process.link.call(ctx, message{Kind: kindAdmit}, theirs, input)
	}
	// The process has them now. Were they still open here, its death would not end the connection.
	if err := errors.Join(err, theirs.Close(), input.Close()); !errors.Is(err, errLinkClosed) {
		return err
	}
	<-c.done // of the process, which is the end of both links
	return c.end
}

// readConsole takes what the guest writes to its console, until the process lets go of that.
func (c *Cell) readConsole() {
	_, _ = tail.Copy(c.console, c.output)
	close(c.read)
}

// consolePatience is how long the console is still read when its cell has gone. Nobody else should have it open.
const consolePatience = time.Second

// awaitGone is for a cell that shares its process, when its link has ended or is broken. It returns when nothing is left of it there,
// or the process is no more.
func (c *Cell) awaitGone(broken error) {
	switch {
	case broken != nil:
		c.process.condemn(fmt.Errorf("guest %s: %w", c.cfg.ID, broken))
		<-c.process.ended
	case c.said == nil:
		select {
		case <-c.closed:
		case <-c.process.ended:
		case <-time.After(exitPatience): // it has lost a guest, and says nothing
			c.process.condemn(fmt.Errorf("it has lost guest %s, and has not said why", c.cfg.ID))
			<-c.process.ended
		}
	}
	_ = c.output.SetReadDeadline(time.Now().Add(consolePatience))
	select {
	case <-c.read:
	case <-time.After(2 * consolePatience): // whoever gets it, holds it up
	}
	_ = c.output.Close()
}

// leaveOthers ends the cell and leaves the process to others.
func (c *Cell) leaveOthers() error {
	c.link.hangUp()
	patience := time.AfterFunc(leavePatience, func() {
		c.process.condemn(fmt.Errorf("it has not let go of guest %s for %v", c.cfg.ID, leavePatience))
	})
	<-c.done
	patience.Stop()
	return c.link.close()
}
