package sandbox

import "context"

// Call is one exchange with a system's own control plane: an HTTP request, a run of a command-line
// tool, a message to a monitor. The judge counts them to find what it costs to drive a system.
type Call struct {
	// Plane is the kind of control plane: "http", "cli", "qmp", "agent", "mcp".
	Plane string
	// Op names the exchange: "POST /containers/create", "runsc exec".
	Op string
	// Sent and Received are the sizes of request and reply in bytes, without bulk data (standard
	// input and output, file contents).
	Sent, Received int
	// Request and Reply are their texts, cut off at 64 KiB.
	Request, Reply string
}

type observerKey struct{}

// WithObserver returns a context that makes drivers report every control-plane call done on its
// behalf to f. f may be called concurrently and must not block.
func WithObserver(ctx context.Context, f func(Call)) context.Context {
	return context.WithValue(ctx, observerKey{}, f)
}

// Observe reports a call to the observer in ctx, if there is one.
func Observe(ctx context.Context, c Call) {
	if f, ok := ctx.Value(observerKey{}).(func(Call)); ok {
		c.Request, c.Reply = clip(c.Request), clip(c.Reply)
		f(c)
	}
}

// Observed tells whether anyone listens, so that a driver can spare itself the copies.
func Observed(ctx context.Context) bool { return ctx.Value(observerKey{}) != nil }

func clip(s string) string {
	const limit = 64 << 10
	if len(s) > limit {
		return s[:limit]
	}
	return s
}
