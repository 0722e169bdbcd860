package cell

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/vmm"
)

// admitFiles is how many files come with admit: the cell's link, and its console's pipe.
const admitFiles = 2

// admitCells serves cells that share the process, each over a link of its own, until the owner ends. KVM's device is open for as
// long as there are places.
func (s *server) admitCells(device *os.File, places int) error {
	rights := make([]byte, unix.CmsgSpace(4*admitFiles))
	for {
		m, fds, err := s.receive(rights)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case m.Kind != kindAdmit:
			return fmt.Errorf("the owner sends a %q message in place of admit", m.Kind)
		}
		if err := s.send(message{Kind: kindReply, ID: m.ID, Failure: fail(s.admit(fds, device))}); err != nil {
			return err
		}
		if places--; places == 0 {
			_ = device.Close() // each cell has its own, until it has its virtual machine
		}
	}
}

// admit begins to serve a cell, and takes over its files.
func (s *server) admit(fds []int, device *os.File) error {
	if len(fds) != admitFiles {
		errs := []error{errNoSocket}
		for _, fd := range fds {
			errs = append(errs, unix.Close(fd))
		}
		return errors.Join(errs...)
	}
	c, err := newServer(fds[0], s.idle)
	console := os.NewFile(uintptr(fds[1]), "console")
	if err != nil {
		return errors.Join(err, unix.Close(fds[0]), console.Close())
	}
	pages, err := duplicate(s.pages)
	if err != nil {
		return errors.Join(err, c.link.Close(), console.Close())
	}
	if c.device, err = duplicate(device); err != nil {
		return errors.Join(err, c.link.Close(), console.Close(), pages.Close())
	}
	c.pages, c.console = pages, console
	c.vcpus, c.memoryMiB = s.vcpus, s.memoryMiB
	go func() {
		if err := c.occupy(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	return nil
}

// occupy serves a cell until it, or its owner, ends, and frees all that it has in the process.
func (s *server) occupy() error {
	var end *endMessage
	started, err := s.boot()
	if started && err == nil {
		end, err = s.serve()
	}
	return errors.Join(err, s.vacate(end))
}

// vacate frees what the cell has, tells the owner then how the guest has ended, if it has, and lets go of the link.
func (s *server) vacate(end *endMessage) error {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.obeying.Wait()
	_ = s.device.Close() // unless build has
	var errs []error
	if s.vm != nil {
		errs = append(errs, s.vm.Close())
	} else {
		_ = s.pages.Close() // else the machine's, which has closed it
	}
	if s.shell != nil {
		errs = append(errs, s.shell.Close())
	}
	errs = append(errs, closeAll(s.disks), s.console.Close())
	s.cutOff()
	if end != nil {
		errs = append(errs, s.send(message{Kind: kindEnded, End: end}))
	}
	errs = append(errs, s.link.Close())
	s.reading.Wait()
	s.cutOff() // what came since
	s.streams.Wait()
	s.idle.busy()
	return errors.Join(errs...)
}

// cutOff ends the streams to the owner, and what waits for an answer.
func (s *server) cutOff() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, cancel := range s.dials {
		cancel()
	}
	for host := range s.hosts {
		_ = host.Close() // its goroutine does so, too
	}
	for id, waiting := range s.upcalls {
		delete(s.upcalls, id)
		waiting <- answer{message: message{Failure: fail(vmm.ErrEnded)}} // there is room for the one
	}
}
