package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/internal/host"
	"github.com/aethervm/aether/internal/probe/finding"
	"github.com/aethervm/aether/internal/probe/inside"
	"github.com/aethervm/aether/internal/probe/outside"
	"github.com/aethervm/aether/sandbox"
)

// insideLimit is enough for the probes under software emulation, which takes some seconds.
const insideLimit = 2 * time.Minute

// Look runs all probes on a running sandbox, idle but for the probe itself. accelerator is
// sandbox.Info's. Nothing in the sandbox or on the host is changed.
func Look(ctx context.Context, sb sandbox.Sandbox, accelerator string) (Report, error) {
	// From outside first, while the sandbox runs nothing of ours.
	out, err := outside.Look(ctx, sb)
	if err != nil {
		return Report{}, fmt.Errorf("probe from outside: %w", err)
	}
	in, err := lookInside(ctx, sb)
	if err != nil {
		return Report{}, fmt.Errorf("probe from inside: %w", err)
	}
	return Evaluate(in, out, host.Read(ctx), accelerator), nil
}

func lookInside(ctx context.Context, sb sandbox.Sandbox) ([]finding.Finding, error) {
	var stderr capped
	stdout := capped{limit: finding.MaxBytes}
	stderr.limit = 4096
	exit, err := sb.Exec(ctx, sandbox.Cmd{
		Args: []string{guestagent.Mount, inside.Subcommand}, Stdout: &stdout, Stderr: &stderr, Timeout: insideLimit,
	})
	if err != nil {
		return nil, err
	}
	if !exit.Success() {
		return nil, fmt.Errorf("the probe ended with %v: %q", exit, stderr.Bytes())
	}
	return finding.Decode(&stdout.Buffer)
}

var errTooMuch = errors.New("the sandbox writes more than a probe has to say")

// capped is a buffer that refuses to grow beyond its limit.
type capped struct {
	bytes.Buffer
	limit int
}

func (c *capped) Write(p []byte) (int, error) {
	if c.Len()+len(p) > c.limit {
		return 0, errTooMuch
	}
	return c.Buffer.Write(p)
}
