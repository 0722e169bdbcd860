package serve

import (
	"errors"
	"fmt"
	"io"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/guest/files"
	"github.com/aethervm/aether/sandbox"
)

// Tree does OpChanges or OpExamine on a tree and writes what comes of it to w, as frames, but for the last one, whose payload
// it returns. A write that fails ends it, so that nothing is read for a host that is gone.
func Tree(t *files.Tree, r agentproto.Request, w io.Writer) ([]byte, error) {
	if t == nil {
		return nil, fmt.Errorf("operation %s: this sandbox does not know what was written: %w", r.Op, errors.ErrUnsupported)
	}
	out := &changes{w: w}
	switch r.Op {
	case agentproto.OpChanges:
		walked, err := t.Walk(r.Path, int(min(r.Size, 1<<30)), out.add)
		return walked.Append(nil), errors.Join(err, out.flush())
	case agentproto.OpExamine:
		for _, want := range r.Wants {
			c, err := t.Examine(want, out.alive)
			if err != nil {
				return nil, err
			}
			if err := out.add(c); err != nil {
				return nil, err
			}
		}
		return nil, out.flush()
	}
	return nil, fmt.Errorf("operation %s: %w", r.Op, sandbox.ErrInvalid)
}

// changes are on their way, many frames with one call of Write.
type changes struct {
	w            io.Writer
	batch, entry []byte
}

func (o *changes) add(c agentproto.Change) error {
	o.entry = agentproto.AppendChange(o.entry[:0], c)
	o.batch = agentproto.AppendFrame(o.batch, agentproto.KindChange, o.entry)
	if len(o.batch) < agentproto.MaxData {
		return nil
	}
	return o.flush()
}

// alive finds out whether the host is still there.
func (o *changes) alive() error {
	o.batch = agentproto.AppendFrame(o.batch, agentproto.KindOutput, nil)
	return o.flush()
}

func (o *changes) flush() error {
	if len(o.batch) == 0 {
		return nil
	}
	_, err := o.w.Write(o.batch)
	o.batch = o.batch[:0]
	return err
}
