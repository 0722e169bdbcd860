package absent

import (
	"context"
	"errors"

	"github.com/aethervm/aether/sandbox"
)

// Because returns a driver for a system whose own driver could not be made, which err explains.
func Because(name string, err error) sandbox.Driver { return &broken{name: name, err: err} }

type broken struct {
	name string
	err  error
}

func (b *broken) System() string { return b.name }

func (b *broken) Probe(context.Context) sandbox.Info {
	info := sandbox.Info{System: b.name, Reason: b.err.Error()}
	if e, ok := errors.AsType[*sandbox.Error](b.err); ok {
		info.Remedy = e.Remedy
		if e.Detail != "" {
			info.Reason = e.Detail
		}
	}
	return info
}

func (b *broken) Create(ctx context.Context, _ sandbox.Spec) (sandbox.Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	info := b.Probe(ctx)
	return nil, &sandbox.Error{Op: "create", System: b.name, Err: sandbox.ErrUnavailable, Detail: info.Reason, Remedy: info.Remedy}
}

// Sweep cannot look for anything without its driver.
func (b *broken) Sweep(context.Context) (int, error) {
	info := b.Probe(context.Background())
	return 0, &sandbox.Error{Op: "sweep", System: b.name, Err: sandbox.ErrUnavailable, Detail: info.Reason, Remedy: info.Remedy}
}

func (b *broken) Close() error { return nil }
