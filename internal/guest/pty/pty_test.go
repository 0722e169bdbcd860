package pty

import (
	"bytes"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

// start runs a shell's line on a terminal and returns what it writes once the line has ended; typing happens meanwhile.
func start(t *testing.T, line string, typing func(*Terminal)) (string, unix.WaitStatus) {
	t.Helper()
	term, err := Open(sandbox.TerminalSize{Rows: 33, Cols: 101})
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	fd := term.Program.Fd()
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", line}, &syscall.ProcAttr{
		Env: []string{"PATH=/usr/bin:/bin"}, Files: []uintptr{fd, fd, fd}, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(-pid, unix.SIGKILL) }() // what it has left, which is in its group
	var out bytes.Buffer
	var reading sync.WaitGroup
	buf := make([]byte, 8<<10)
	reading.Go(func() { term.Output(buf, func(n int) { out.Write(buf[:n]) }) })
	if typing != nil {
		typing(term)
	}
	timeout := time.AfterFunc(20*time.Second, func() { _ = unix.Kill(-pid, unix.SIGKILL) })
	defer timeout.Stop()
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	term.Finish()
	reading.Wait()
	return out.String(), status
}

func TestProgramHasTheTerminal(t *testing.T) {
	out, status := start(t, "test -t 0 && test -t 1 && test -t 2 && stty size </dev/tty", nil)
	if out != "33 101\r\n" || status.ExitStatus() != 0 {
		t.Errorf("%q, %v", out, status)
	}
}

func TestOutputIsWhole(t *testing.T) {
	out, _ := start(t, "stty raw -echo; head -c 1048576 /dev/zero; printf end", nil)
	if len(out) != 1<<20+3 {
		t.Errorf("%d bytes", len(out))
	}
}

func TestKeys(t *testing.T) {
	out, status := start(t, "stty -echo; echo ready; exec cat", func(term *Terminal) {
		time.Sleep(300 * time.Millisecond)
		_, _ = term.Write([]byte{3})
	})
	if status.Signal() != unix.SIGINT {
		t.Errorf("Ctrl-C: %v, %q", status, out)
	}
	for _, text := range []string{"", "line\n", "half"} {
		out, status := start(t, "stty -echo; exec cat", func(term *Terminal) {
			time.Sleep(300 * time.Millisecond)
			_, _ = term.Write([]byte(text))
			_ = term.TypeEnd()
		})
		if status.ExitStatus() != 0 || string(bytes.ReplaceAll([]byte(out), []byte("\r"), nil)) != text {
			t.Errorf("end after %q: %v, %q", text, status, out)
		}
	}
}

func TestEndIsNotTypedInRawMode(t *testing.T) {
	out, _ := start(t, "stty raw -echo min 0 time 5; cat | od -c", func(term *Terminal) {
		time.Sleep(200 * time.Millisecond)
		_, _ = term.Write([]byte("ok"))
		_ = term.TypeEnd()
	})
	if bytes.Contains([]byte(out), []byte("004")) {
		t.Errorf("%q", out)
	}
}

func TestResizeTellsTheProgram(t *testing.T) {
	out, _ := start(t, `trap "stty size; exit 4" WINCH; while :; do sleep 0.05; done`, func(term *Terminal) {
		time.Sleep(300 * time.Millisecond)
		if err := term.Resize(sandbox.TerminalSize{Rows: 5, Cols: 7}); err != nil {
			t.Error(err)
		}
	})
	if out != "5 7\r\n" {
		t.Errorf("%q", out)
	}
}

func TestLeftoverProcessKeepsNobodyWaiting(t *testing.T) {
	began := time.Now()
	out, _ := start(t, "(trap '' HUP; while :; do echo x; done) & echo done", nil)
	if d := time.Since(began); d > 10*time.Second || !bytes.Contains([]byte(out), []byte("done")) {
		t.Errorf("%v, %d bytes", d, len(out))
	}
}
