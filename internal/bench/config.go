package bench

import (
	"time"

	"github.com/aethervm/aether/sandbox"
)

// Defaults of Config.
const (
	DefaultRuns = 10
	// densityRuns bounds the rounds of the axis that is slow.
	densityRuns = 3
	maxRuns     = 10_000
)

// Config says what Run measures.
type Config struct {
	// Drivers are the systems, at most one driver a system. They stay the caller's to close.
	Drivers []sandbox.Driver
	// Axes to measure; empty means all.
	Axes []Axis
	// Runs is the number of rounds; 0 means DefaultRuns. Density takes at most 3 of them, isolation
	// and agent-control 1.
	Runs int
	// Spec is what every sandbox is created from.
	Spec sandbox.Spec
	// Out is the results directory. It is created if missing; one with results of the same
	// configuration on the same boot of the same host is taken up where it stopped.
	Out string
	// AetherVersion is recorded.
	AetherVersion string
	// Host is recorded; see CurrentHost, which Run calls if there is no BootID.
	Host Host
	// Scratch is where snapshots are kept while they are measured, in a directory that the next
	// bench on this host clears if this one is killed. Empty means "bench" below hostdir.State.
	Scratch string
	// Progress is told what happens, from one goroutine at a time; nil means nobody is.
	Progress func(Event)

	// memory is how the host's memory is read; nil means from /proc.
	memory memory
	// prober judges isolation; nil means package probe.
	prober prober
	// surfer has an agent work over MCP; nil means package agentjobs.
	surfer surfer
}

// Event tells what a bench is doing.
type Event struct {
	Kind   EventKind
	System string
	Step   string
	Round  int // counts from 0
	// Done and Total count steps of all systems and rounds.
	Done, Total int
	// Name, Value and Unit are the sample's, for EventSample.
	Name  string
	Value float64
	Unit  string
	// Text is for people: the reason of an absence or failure, or what goes on.
	Text    string
	Elapsed time.Duration // since Run was called
}

// EventKind says what an Event is about.
type EventKind string

// Kinds of event, in the order in which they come.
const (
	EventAbsent  EventKind = "absent"  // a system is not available: Text has reason and remedy
	EventSwept   EventKind = "swept"   // what a killed process had left was removed
	EventResumed EventKind = "resumed" // the directory had results already: Done of Total
	EventWarmup  EventKind = "warmup"  // the untimed first sandbox of a system
	EventStep    EventKind = "step"    // a step begins
	EventSample  EventKind = "sample"  // a value was taken
	EventFailure EventKind = "failure" // a step failed
	EventDropped EventKind = "dropped" // a step or a system is given up
	EventDone    EventKind = "done"    // all steps are done
)
