package agentproto

import (
	"context"
	"time"
)

const (
	// clockSlack is how far the clock of a guest may be behind or ahead by what is known of the exchange in which it was told
	// the time.
	clockSlack = 40 * time.Millisecond
	// clockTries is how often a guest is told the time if that takes longer, as on a host that has much else to do.
	clockTries = 20
)

// become has the guest apply cfg, with the time at which it is told and not that at which it was asked to be: before a guest
// can be reached it may have to boot. Where the first sign of life takes long, what follows may as well; a guest whose
// programs are to go on is then told the time before everything else, until that is fast.
func (c *Client) become(ctx context.Context, op Op, cfg Config) error {
	if cfg.Now.IsZero() {
		_, err := c.simple(ctx, Request{Op: op, Config: cfg})
		return err
	}
	begin := time.Now()
	if err := c.open(ctx); err != nil {
		return err
	}
	told := false
	if op == OpThaw && time.Since(begin) > clockSlack {
		if err := c.tellTime(ctx); err != nil {
			return err
		}
		told = true
	}
	begin = time.Now()
	if cfg.Now = begin; told {
		cfg.Now = time.Time{}
	}
	if _, err := c.simple(ctx, Request{Op: op, Config: cfg}); err != nil {
		return err
	}
	if told || time.Since(begin) <= clockSlack {
		return nil
	}
	return c.tellTime(ctx)
}

// tellTime sets the guest's wall clock. What it sends is the time at which the guest will have it, if the way there takes half
// of the shortest exchange before. The clock is then ahead by that half at most, and behind by the rest of the exchange. The
// shortest one tells most: on a host that has much else to do, some take many times as long as the others.
func (c *Client) tellTime(ctx context.Context) error {
	var way, shortest time.Duration
	for i := range clockTries {
		begin := time.Now()
		if _, err := c.simple(ctx, Request{Op: OpConfigure, Config: Config{Now: begin.Add(way)}}); err != nil {
			return err
		}
		took := time.Since(begin)
		good := way <= clockSlack && took-way <= clockSlack
		if good || i >= clockTries/2 && took <= shortest+shortest/8 { // in the end, what is as good as it gets will do
			break
		}
		if i == 0 || took < shortest {
			shortest = took
		}
		way = shortest / 2
	}
	return nil
}

// open has a connection at hand for the next operation, if connections are kept.
func (c *Client) open(ctx context.Context) error {
	if !c.Keep {
		return nil
	}
	conn, err := c.connect(ctx)
	if err == nil {
		c.disconnect(conn, true)
	}
	return err
}
