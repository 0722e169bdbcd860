// Package pty makes the terminals of programs that the agent runs.
package pty

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

// Terminal is a pseudo-terminal: the agent's end of it, and the one that a program gets. Its methods may be called
// concurrently, but for Output and Close.
type Terminal struct {
	master *os.File
	// Program is the end that is for the program, in blocking mode. It stays open here too, so that a program may
	// close its own and open the terminal again.
	Program *os.File

	begun atomic.Bool // a line was: what was typed last is not its end
}

// Open makes a terminal of a size. Its device must be mounted at /dev/pts.
func Open(size sandbox.TerminalSize) (*Terminal, error) {
	// Not to wait, whatever a program has put there.
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a terminal: /dev/ptmx: %w", err)
	}
	t := &Terminal{master: os.NewFile(uintptr(fd), "terminal")}
	if err := t.open(fd, size); err != nil {
		t.Close()
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	return t, nil
}

func (t *Terminal) open(fd int, size sandbox.TerminalSize) error {
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock it: %w", err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return fmt.Errorf("number: %w", err)
	}
	if err := setSize(fd, size); err != nil {
		return err
	}
	name := fmt.Sprintf("/dev/pts/%d", uint32(number))
	program, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	t.Program = os.NewFile(uintptr(program), name)
	return nil
}

func setSize(fd int, size sandbox.TerminalSize) error {
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols}); err != nil {
		return fmt.Errorf("set the size: %w", err)
	}
	return nil
}

// Resize gives it another size and tells the program.
func (t *Terminal) Resize(size sandbox.TerminalSize) error {
	return t.control(func(fd int) error { return setSize(fd, size) })
}

func (t *Terminal) control(f func(fd int) error) error {
	raw, err := t.master.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	err = raw.Control(func(fd uintptr) { done = f(int(fd)) })
	return errors.Join(err, done)
}

// Write types.
func (t *Terminal) Write(p []byte) (int, error) {
	n, err := t.master.Write(p)
	if n > 0 {
		t.begun.Store(p[n-1] != '\n' && p[n-1] != '\r')
	}
	return n, err
}

// TypeEnd types the end of the input, unless the program has switched off that there is such a character. Where a line was
// begun, the first such character ends that, the next the input.
func (t *Terminal) TypeEnd() error {
	var end []byte
	err := t.control(func(fd int) error {
		mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil && mode.Lflag&unix.ICANON != 0 && mode.Cc[unix.VEOF] != 0 {
			end = append(end, mode.Cc[unix.VEOF])
			if t.begun.Load() {
				end = append(end, end...)
			}
		}
		return err
	})
	if err != nil || end == nil {
		return err
	}
	_, err = t.master.Write(end)
	return err
}

// afterEnd bounds what is read after the program's end, in bytes. It is more than any system holds: what descendants
// write from then on without end is not the program's output.
const afterEnd = 256 << 10

// Output reads what is written to the terminal into buf and calls send for it, until Finish or Close.
func (t *Terminal) Output(buf []byte, send func(n int)) {
	for {
		n, err := t.master.Read(buf)
		if n > 0 {
			send(n)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.rest(buf, send)
			return
		}
		if err != nil {
			return
		}
	}
}

// rest sends what the terminal holds now. The kernel brings what was written to where it is read before it says that
// there is nothing.
func (t *Terminal) rest(buf []byte, send func(n int)) {
	raw, err := t.master.SyscallConn()
	if err != nil || t.master.SetReadDeadline(time.Time{}) != nil {
		return
	}
	for left := afterEnd; left > 0; {
		var n int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, failed = unix.Read(int(fd), buf[:min(left, len(buf))])
			return true // never wait
		})
		if err == nil && errors.Is(failed, unix.EINTR) {
			continue
		}
		if err != nil || failed != nil || n <= 0 {
			return
		}
		send(n)
		left -= n
	}
}

// Finish has Output return once it has sent what was written before. It is called when the program has ended.
func (t *Terminal) Finish() { _ = t.master.SetReadDeadline(time.Unix(1, 0)) }

// Close frees the terminal. Processes that still have it are told that it has hung up.
func (t *Terminal) Close() {
	_ = t.master.Close()
	if t.Program != nil {
		_ = t.Program.Close()
	}
}
