package failcalls

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Process is a process under test that does as it is told: it reads orders from its standard input, one a line, and answers
// each on its standard output, in JSON.
type Process struct {
	*Caller
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers *json.Decoder
}

// Start starts such a process, which calls Offer first, and attaches to it. It ends with this one. The caller closes it.
func Start(cmd *exec.Cmd) (*Process, error) {
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p := &Process{cmd: cmd}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if p.Caller, err = Attach(cmd.Process.Pid); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	p.answers = json.NewDecoder(out)
	return p, nil
}

// PID is the process's.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ask gives an order and decodes the answer. A process that has none after patience shows its goroutines and ends.
func (p *Process) Ask(order string, patience time.Duration, answer any) error {
	_, err := fmt.Fprintln(p.in, order)
	if err == nil {
		late := time.AfterFunc(patience, func() { _ = p.cmd.Process.Signal(syscall.SIGQUIT) })
		defer late.Stop()
		err = p.answers.Decode(answer)
	}
	if err != nil {
		_, n, fault := p.Stop()
		return errors.Join(fmt.Errorf("%s: the process is gone, or hangs: %w; %d calls", order, err, n), fault)
	}
	return nil
}

// Close ends the process's input, with which it ends, and waits for it and those that it has started.
func (p *Process) Close() error {
	_ = p.in.Close() // it may be gone
	return errors.Join(p.cmd.Wait(), p.Caller.Close())
}
