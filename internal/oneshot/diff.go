package oneshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/treediff"
	"github.com/aethervm/aether/sandbox"
)

// Diff compares the files of two sandboxes, as sandbox.Differ says. The agents list all that is there: on the root's file
// system, and on what is mounted at the paths others. Of files that were last changed before both sandboxes were there, at
// the same time, to the nanosecond, content is not read.
func (r *Runner) Diff(ctx context.Context, with *Runner, others []string, opt sandbox.DiffOptions, each func(sandbox.FileChange) error) (sandbox.Diff, error) {
	return treediff.Compare(ctx, tree{r, others}, tree{with, others}, later(r.began, with.began), opt, each)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// tree implements treediff.Tree.
type tree struct {
	r      *Runner
	others []string
}

func (t tree) Changes(ctx context.Context, after string, limit int, each func(agentproto.Change) error) (agentproto.Walked, error) {
	payload, err := t.ask(ctx, agentproto.Request{Op: agentproto.OpChanges, Path: after, Size: int64(limit)}, each)
	if err != nil {
		return agentproto.Walked{}, err
	}
	return agentproto.DecodeWalked(payload)
}

func (t tree) Examine(ctx context.Context, list []agentproto.Want, each func(agentproto.Change) error) error {
	_, err := t.ask(ctx, agentproto.Request{Op: agentproto.OpExamine, Wants: list}, each)
	return err
}

// ask runs the agent once, which reads the request and writes its answers as frames.
func (t tree) ask(ctx context.Context, req agentproto.Request, each func(agentproto.Change) error) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request := agentproto.AppendFrame(nil, agentproto.KindRequest, req.Append(nil))
	from, to := io.Pipe()
	ran := make(chan error, 1)
	go func() {
		_, _, err := t.r.agent(ctx, bytes.NewReader(request), to, append([]string{"tree"}, t.others...)...)
		_ = to.Close() // never fails
		ran <- err
	}()
	payload, err := agentproto.ReadReply(from, each)
	if err != nil {
		_ = from.CloseWithError(err) // never fails
		cancel(err)
	} else {
		_, _ = io.Copy(io.Discard, from) // the agent ends by itself
	}
	ranErr := <-ran
	var failure agentproto.Failure
	switch {
	case err == nil && ranErr == nil:
		return payload, nil
	case errors.As(err, &failure):
		return nil, &sandbox.Error{Op: "diff", System: t.r.system, Sandbox: t.r.id, Err: kind(failure), Detail: failure.Text}
	case gone(ranErr):
		return nil, ranErr
	case errors.Is(err, agentproto.ErrProtocol):
		return nil, &sandbox.Error{Op: "diff", System: t.r.system, Sandbox: t.r.id, Err: err}
	case ranErr != nil && (err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
		return nil, ranErr
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, &sandbox.Error{Op: "diff", System: t.r.system, Sandbox: t.r.id, Err: errAgent, Detail: fmt.Sprintf("its answer breaks off: %v", err)}
	}
	return nil, err
}

// kind is what an agent's failure is.
func kind(f agentproto.Failure) error {
	if err := f.Unwrap(); err != nil {
		return err
	}
	return errAgent
}
