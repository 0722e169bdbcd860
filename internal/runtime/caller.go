package runtime

import "context"

type (
	endKey  struct{}
	lookKey struct{}
)

// OnEnd has f called, in a goroutine of its own, when an operation in a sandbox that ctx is given to is ended before it
// has finished: by its caller, a budget, or the end of the sandbox or session. The operation may wait then for a writer
// of its caller's that takes nothing, and f is to have that writer fail. It may be called after the operation has
// returned.
func OnEnd(ctx context.Context, f func()) context.Context {
	return context.WithValue(ctx, endKey{}, f)
}

// Look makes operations on ctx ones that only look: they count for no activity of a sandbox, and on one that is paused
// they fail with CodeConflict where others would let it go on.
func Look(ctx context.Context) context.Context { return context.WithValue(ctx, lookKey{}, true) }

func looks(ctx context.Context) bool { return ctx.Value(lookKey{}) != nil }

// atEnd arranges what OnEnd promises for an operation with ctx, until the function that it returns is called.
func atEnd(ctx context.Context) (stop func()) {
	f, ok := ctx.Value(endKey{}).(func())
	if !ok {
		return func() {}
	}
	stopIt := context.AfterFunc(ctx, f)
	return func() { stopIt() }
}
