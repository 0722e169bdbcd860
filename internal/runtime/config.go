package runtime

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/sandbox"
)

// Config is what a Runtime is opened with. Drivers and Images are needed; zero values of the rest
// mean the defaults.
type Config struct {
	// StateDir is the absolute path of the runtime's own directory: database, audit log, snapshots.
	// One runtime at a time may use it. Empty means a private one that Close removes, with no audit
	// log: for a command that runs one program.
	StateDir string
	// Drivers are the systems that sandboxes can be made with. The caller closes them, after the
	// runtime.
	Drivers []sandbox.Driver
	// Images finds images by name.
	Images Images
	// DefaultImage is the image of a request that names none; empty means image.DefaultName.
	DefaultImage string
	// System is what a request that names no system gets: a name of package vms, or "auto" or empty
	// for the best that this host has.
	System string
	// Limits bound what sessions may ask for.
	Limits Limits
	// Capabilities are those of a session that asks for none by name, within its tenant's; nil means
	// DefaultCapabilities.
	Capabilities []Capability
	// Egress bounds what sandboxes may be asked to reach.
	Egress EgressLimit
	// Secrets are those that sandboxes may ask for, by name: all tenants' that have CanNetwork. It is not to be
	// changed any more.
	Secrets map[string]Secret
	// Pool has sandboxes ready before they are asked for. The zero value has none.
	Pool PoolConfig
	// HostTemplates lets the local tenant copy the templates that drivers keep for whoever owns the host, beside its own.
	HostTemplates bool
	// Log gets what nobody waits for; nil discards it.
	Log *slog.Logger
}

// Images finds images.
type Images interface {
	// Resolve returns the image of a name or digest and keeps it from being removed until release,
	// which is never nil if err is.
	Resolve(ctx context.Context, name string) (img sandbox.Image, release func(), err error)
}

// StoreImages resolves names in a store of package image.
func StoreImages(store *image.Store) Images { return storeImages{store} }

type storeImages struct{ store *image.Store }

func (s storeImages) Resolve(_ context.Context, name string) (sandbox.Image, func(), error) {
	img, err := s.store.Resolve(name)
	if err != nil {
		return img, nil, err
	}
	var hold io.Closer
	if hold, err = image.Hold(img); err != nil {
		return img, nil, err
	}
	return img, func() { _ = hold.Close() }, nil
}

// PoolConfig bounds the sandboxes that are made before they are asked for. How many there are of a kind follows from
// how often it is asked for and how long it takes to make one; kinds differ in the tenant, and in anything that a driver
// is told.
type PoolConfig struct {
	// Sandboxes is the most that wait at a time; 0 is none.
	Sandboxes int
	// MemoryMiB bounds the memory of all of them together; 0 means 256 for each of Sandboxes.
	MemoryMiB int
}

// EgressLimit is the operator's word on networks, to whoever has CanNetwork. What clouds have their metadata on,
// link-local addresses and the host's loopback are never reached; an address of the host only if Allow names exactly
// that.
type EgressLimit struct {
	// Allow are rules, as in sandbox.EgressRule: what a request names must lie within one of them, and a request
	// for an outbound network without rules gets all of them. Empty means "*": every name and every public
	// address, and no private network.
	Allow []string
	// Unlimited takes any rule, and lets a request without rules have what the system's ordinary network
	// reaches: under Docker that is all that this host does, and the host too. It is for who owns the host.
	Unlimited bool
}

// Limits are defaults and bounds. A zero field means the default that its comment gives.
type Limits struct {
	// Session is the budget of a session whose SessionSpec gives none, and its upper bound otherwise.
	Session Budget
	// Idle is the policy of a sandbox whose request gives none.
	Idle IdlePolicy
	// OutputShown is how many bytes of each of stdout and stderr a result shows at most, head and
	// tail; 16 KiB.
	OutputShown int
	// OutputKept is how many bytes of each stream of a process are kept to be read by range; 4 MiB.
	// Of what exceeds it the middle is dropped.
	OutputKept int
	// OutputsKept is how many outputs of finished processes a session keeps, the oldest going first;
	// 64.
	OutputsKept int
	// OutputsSize bounds the bytes of all those together, the oldest going first; 32 MiB.
	OutputsSize int
	// ReadSize is the most bytes of a file that one Read returns; 64 KiB.
	ReadSize int
	// FileSize is the largest file that an exact-match edit takes; 8 MiB.
	FileSize int
	// Forks is the most children of one Fork; 64.
	Forks int
	// Parallel is how many sandboxes of one fork are started at the same time; 4.
	Parallel int
}

// IdlePolicy says what happens to a sandbox in which nothing goes on. An operation in progress and
// a background process are activity; a sandbox that has either is never paused nor reaped for
// idleness.
type IdlePolicy struct {
	// Pause is how long after the last activity the sandbox is paused, if its system can. The next
	// operation lets it go on. 0 means the runtime's default, 2 minutes; negative, never.
	Pause time.Duration `json:"pause,omitempty"`
	// Kill is how long after the last activity the sandbox is killed. 0 means the runtime's default,
	// 30 minutes; negative, never.
	Kill time.Duration `json:"kill,omitempty"`
}

const (
	defaultIdlePause = 2 * time.Minute
	defaultIdleKill  = 30 * time.Minute
)

func (l Limits) withDefaults() Limits {
	set(&l.OutputShown, 16<<10)
	set(&l.OutputKept, 4<<20)
	set(&l.OutputsKept, 64)
	set(&l.OutputsSize, 32<<20)
	set(&l.ReadSize, 64<<10)
	set(&l.FileSize, 8<<20)
	set(&l.Forks, 64)
	set(&l.Parallel, 4)
	l.Idle = l.Idle.over(IdlePolicy{Pause: defaultIdlePause, Kill: defaultIdleKill})
	return l
}

// over fills in the fields of p that are zero.
func (p IdlePolicy) over(d IdlePolicy) IdlePolicy {
	set(&p.Pause, d.Pause)
	set(&p.Kill, d.Kill)
	return p
}

func set[T comparable](v *T, d T) {
	if *v == *new(T) {
		*v = d
	}
}
