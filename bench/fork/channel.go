package main

import (
	"context"
	"net"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/cell"
)

// channel leads to a guest's agent.
type channel struct{ cell *cell.Cell }

func (c channel) Dial(ctx context.Context) (net.Conn, error) {
	return c.cell.Dial(ctx, agentproto.Port)
}
