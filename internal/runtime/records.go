package runtime

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vms"
)

// Prefixes of IDs.
const (
	prefixTenant   = "te"
	prefixSession  = "se"
	prefixSandbox  = "sb"
	prefixProcess  = "pr"
	prefixOutput   = "ou"
	prefixSnapshot = "sn"
	prefixTemplate = "tm"
	prefixOwner    = "rt" // of a runtime
)

var (
	idRE   = regexp.MustCompile(`^[a-z]{2}[a-z2-7]{10}$`)
	nameRE = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
)

// newID returns a name that nobody else has: the prefix and 50 random bits. It is short since agents
// repeat it; whoever guesses one of another tenant gains nothing.
func newID(prefix string) string { return prefix + lease.NewID()[:10] }

// IsSandboxID tells the ID of a sandbox from other names.
func IsSandboxID(name string) bool { return checkID(prefixSandbox, name) == nil }

// IsSnapshotID tells the ID of a snapshot from other names.
func IsSnapshotID(name string) bool { return checkID(prefixSnapshot, name) == nil }

// IsTemplateID tells the ID of a template from its name.
func IsTemplateID(name string) bool { return checkID(prefixTemplate, name) == nil }

func checkID(prefix, id string) error {
	if !idRE.MatchString(id) || id[:2] != prefix {
		return fmt.Errorf("%q is no ID of its kind", id)
	}
	return nil
}

// tenantRecord is a Tenant in the database.
type tenantRecord struct {
	Tenant
	// Tokens are the SHA-256 digests of the tokens that are valid, in hexadecimal. A token is 256
	// random bits, so that neither salt nor a slow hash would add anything.
	Tokens []string `json:"tokens"`
	// Views are those of view tokens.
	Views []string `json:"views,omitempty"`
}

func (t tenantRecord) check(key string) error {
	switch {
	case t.ID != key:
		return errors.New("it is that of another tenant")
	case !nameRE.MatchString(t.Name):
		return fmt.Errorf("its name is %q", t.Name)
	}
	for _, digest := range slices.Concat(t.Tokens, t.Views) {
		if b, err := hex.DecodeString(digest); err != nil || len(b) != 32 {
			return errors.New("a digest of a token is none")
		}
	}
	return errors.Join(checkID(prefixTenant, t.ID), checkCapabilities(t.Capabilities), t.Budget.check())
}

// sandboxRecord is a sandbox that is alive, for whoever opens the state directory after this process
// was killed.
type sandboxRecord struct {
	ID      string    `json:"id"`
	Tenant  string    `json:"tenant"`
	Session string    `json:"session"`
	System  string    `json:"system"`
	Created time.Time `json:"created"`
}

func (s sandboxRecord) check(key string) error {
	switch {
	case s.ID != key:
		return errors.New("it is that of another sandbox")
	case !nameRE.MatchString(s.Session):
		return fmt.Errorf("its session is %q", s.Session)
	}
	return errors.Join(checkID(prefixSandbox, s.ID), checkID(prefixTenant, s.Tenant), checkSystem(s.System))
}

// snapshotRecord is a snapshot that is whole.
type snapshotRecord struct {
	SnapshotInfo
	Tenant string           `json:"tenant"`
	Saved  sandbox.Snapshot `json:"saved"`
	Spec   SandboxSpec      `json:"spec"`
	// Interpreters are those that ran in it; of a snapshot of files, none.
	Interpreters []Language `json:"interpreters,omitempty"`
}

func (s snapshotRecord) check(key string) error {
	switch {
	case s.ID != key:
		return errors.New("it is that of another snapshot")
	case s.Saved.Kind != sandbox.SnapshotFull && s.Saved.Kind != sandbox.SnapshotFiles || s.Saved.Kind != s.Kind:
		return fmt.Errorf("its kind is %q and %q", s.Kind, s.Saved.Kind)
	case s.Saved.System != s.System:
		return fmt.Errorf("it is one of %q and %q", s.System, s.Saved.System)
	case s.Saved.Ref == "":
		return errors.New("it does not say where it lies")
	case s.Bytes < 0 || len(s.Name) > maxName:
		return errors.New("its size or name is out of range")
	}
	return errors.Join(checkID(prefixSnapshot, s.ID), checkID(prefixTenant, s.Tenant), checkSystem(s.System))
}

// templateRecord is a template that is whole.
type templateRecord struct {
	TemplateInfo
	Tenant string `json:"tenant"`
	// Kept is what its driver keeps, under a name that begins with that of the runtime.
	Kept sandbox.Template `json:"kept"`
}

func (t templateRecord) check(key string) error {
	switch {
	case t.ID != key:
		return errors.New("it is that of another template")
	case !templateNameRE.MatchString(t.Name):
		return fmt.Errorf("its name is %q", t.Name)
	case !keptRE.MatchString(t.Kept.Name) || !strings.HasSuffix(t.Kept.Name, "."+key):
		return fmt.Errorf("its driver knows it as %q", t.Kept.Name)
	case t.Kept.System != t.System || t.Kept.Digest != t.Digest || t.Digest == "":
		return errors.New("it is one of another system or content")
	case t.Bytes < 0 || len(t.WarmUp) > maxWarmUps:
		return errors.New("its size or warm-up is out of range")
	}
	if _, err := t.Kept.Spec.WithDefaults(); err != nil {
		return err
	}
	return errors.Join(checkID(prefixTemplate, t.ID), checkID(prefixTenant, t.Tenant), checkSystem(t.System))
}

// ownerRecord is the name of the runtime, which nobody else has, for what drivers keep for all of the host.
type ownerRecord string

func (o ownerRecord) check(string) error { return checkID(prefixOwner, string(o)) }

// keyRecord is the answer to a call with an idempotency key.
type keyRecord struct {
	Op string `json:"op"`
	// Request is the SHA-256 of the request, in hexadecimal.
	Request string          `json:"request"`
	Answer  json.RawMessage `json:"answer,omitempty"`
	// Failed is set in place of Answer if that was an error.
	Failed *Error `json:"failed,omitempty"`
	// Lasting tells that what the call made outlives the process.
	Lasting bool      `json:"lasting,omitempty"`
	Time    time.Time `json:"time"`
}

func (k keyRecord) check(string) error {
	if b, err := hex.DecodeString(k.Request); err != nil || len(b) != 32 || k.Op == "" || (len(k.Answer) == 0) == (k.Failed == nil) {
		return errors.New("it is not whole")
	}
	return nil
}

// auditHead is the last entry of the audit log at some time.
type auditHead struct {
	Seq  int64  `json:"seq"`
	Hash string `json:"hash"`
}

func (h auditHead) check(string) error {
	if b, err := hex.DecodeString(h.Hash); err != nil || len(b) != 32 || h.Seq < 1 {
		return errors.New("it is no head of an audit log")
	}
	return nil
}

func checkSystem(name string) error {
	if vm, err := vms.Parse(name); err != nil || vm.Name() != name {
		return fmt.Errorf("%q is no system", name)
	}
	return nil
}

func checkCapabilities(list []Capability) error {
	for _, c := range list {
		if !slices.Contains(allCapabilities(), c) {
			return fmt.Errorf("%q is no capability", c)
		}
	}
	return nil
}
