package sandbox

import (
	"context"
	"time"
)

// EgressLogger is a Sandbox that keeps a record of the flows that were refused it, and of the credentials that its
// Outside, if that is a CredentialLogger, has added to its requests.
type EgressLogger interface {
	// EgressLog returns the record so far; it is empty for a sandbox without a network.
	EgressLog(ctx context.Context) (EgressLog, error)
}

// CredentialLogger is an Outside that adds credentials to requests, and keeps a record of that.
type CredentialLogger interface {
	// CredentialLog returns the record so far, the use that was the last one at the end, and how many uses have no entry
	// (any more): there were too many different ones.
	CredentialLog() (uses []CredentialUse, omitted int64)
}

// EgressLog is what was refused, by the account of the host. The texts are the guest's choice, without
// control characters.
type EgressLog struct {
	// Refused has one entry a destination, the one refused last at the end. Their number is bounded.
	Refused []RefusedFlow `json:"refused"`
	// Omitted counts refusals that have no entry (any more): there were too many different ones.
	Omitted int64 `json:"omitted,omitempty"`
	// Credentials has one entry for each kind of use of a credential, the one used last at the end. Their number is
	// bounded. A copy of a sandbox begins with none.
	Credentials []CredentialUse `json:"credentials,omitempty"`
	// CredentialsOmitted is Omitted for Credentials.
	CredentialsOmitted int64 `json:"credentials_omitted,omitempty"`
}

// CredentialUse is requests to one host that were given a credential, or refused. The credential is not in it.
type CredentialUse struct {
	// Secret is the name of the credential.
	Secret string `json:"secret"`
	Host   string `json:"host"`
	// Method is a common one of HTTP, or "other".
	Method string `json:"method"`
	// Status is that of the host's answer; 0 if there was none.
	Status int `json:"status,omitempty"`
	// Refused says why the requests were not sent on. If it is empty they have the credential, and may have reached the
	// host, whether that has answered or not.
	Refused string `json:"refused,omitempty"`
	// Count is how many requests there were, from First to Last.
	Count int64     `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
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
