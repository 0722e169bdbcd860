package sandbox

import (
	"context"
	"time"
)

// EgressLogger is a Sandbox that keeps a record of the flows that were refused it.
type EgressLogger interface {
	// EgressLog returns the record so far; it is empty for a sandbox without a network.
	EgressLog(ctx context.Context) (EgressLog, error)
}

// EgressLog is what was refused, by the account of the host. The texts are the guest's choice, without
// control characters.
type EgressLog struct {
	// Refused has one entry a destination, the one refused last at the end. Their number is bounded.
	Refused []RefusedFlow `json:"refused"`
	// Omitted counts refusals that have no entry (any more): there were too many different ones.
	Omitted int64 `json:"omitted,omitempty"`
}

// RefusedFlow is a destination that was refused.
type RefusedFlow struct {
	// Protocol is "tcp", "udp", or "dns" for a name that was to be resolved.
	Protocol string `json:"protocol"`
	// Address is the destination, IP:PORT; empty for "dns".
	Address string `json:"address,omitempty"`
	// Name is what was to be resolved, for "dns".
	Name string `json:"name,omitempty"`
	// Count is how many times it was refused, from First to Last.
	Count int64     `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}
