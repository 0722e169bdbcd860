package serve

import (
	"errors"
	"os"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/guest/pty"
	"github.com/aethervm/aether/sandbox"
)

func (p *pipes) openTerminal(size sandbox.TerminalSize) (err error) {
	if p.terminal, err = pty.Open(size); err != nil {
		return err
	}
	p.child = [3]*os.File{p.terminal.Program, p.terminal.Program, p.terminal.Program}
	return nil
}

// sendScreen sends what is written to the terminal until the program has ended.
func (r *run) sendScreen() {
	buf := make([]byte, agentproto.HeaderSize+agentproto.MaxData)
	r.pipes.terminal.Output(buf[agentproto.HeaderSize:], func(n int) {
		// After a failure it is read on and dropped, as other output is.
		if r.c.writeSealed(agentproto.KindOutput, buf[:agentproto.HeaderSize+n]) != nil {
			r.cutOff()
		}
	})
}

// typeInput types what comes from the host.
func (r *run) typeInput() {
	var owed credit
	for {
		data := r.input.take()
		if data == nil {
			break
		}
		if _, err := r.pipes.terminal.Write(data); err != nil {
			r.input.stop()
			return
		}
		size := len(data)
		r.input.passed(data)
		if owed.give(r.c, size) != nil {
			r.cutOff()
		}
	}
	if r.input.atEnd() {
		_ = r.pipes.terminal.TypeEnd() // the program may have ended
	}
}

// resize takes the size that the host has sent.
func (r *run) resize(payload []byte) error {
	size, err := agentproto.DecodeSize(payload)
	if err != nil {
		return err
	}
	if r.pipes.terminal == nil {
		return errors.New("the program has none")
	}
	_ = r.pipes.terminal.Resize(size) // it may have ended
	return nil
}
