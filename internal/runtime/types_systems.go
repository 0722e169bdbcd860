package runtime

import (
	"time"

	"github.com/aethervm/aether/vms"
)

// System is one of the judge's ranking, as it stands on this host.
type System struct {
	VM          vms.VM  `json:"system"`
	Rank        int     `json:"rank"` // from 1
	Fitness     float64 `json:"fitness"`
	Available   bool    `json:"available"`
	Version     string  `json:"version,omitempty"`
	Accelerator string  `json:"accelerator,omitempty"`
	Reason      string  `json:"reason,omitempty"` // why it is not available
	Remedy      string  `json:"remedy,omitempty"`
}

// Choice is a system that was chosen.
type Choice struct {
	VM vms.VM `json:"system"`
	// Why is a sentence: "gvisor: the best ranked of the systems available here (aethervm: ...)".
	Why string `json:"why"`
}

// Status is what a health check and metrics read.
type Status struct {
	Started   time.Time `json:"started"`
	Draining  bool      `json:"draining"`
	Tenants   int       `json:"tenants"`
	Sessions  int       `json:"sessions"`
	Sandboxes int       `json:"sandboxes"`
	Paused    int       `json:"paused"`
	Processes int       `json:"processes"`
	Snapshots int       `json:"snapshots"`
}

// Recovery is what Open found of an owner that did not close the runtime.
type Recovery struct {
	// Orphans are sandboxes that the former owner left in the database.
	Orphans []Orphan `json:"orphans,omitempty"`
	// Swept is how many sandboxes each system has removed.
	Swept map[string]int `json:"swept,omitempty"`
	// Snapshots and Templates are how many are kept; Lost are those whose files are gone, or that were not finished.
	Snapshots int      `json:"snapshots"`
	Templates int      `json:"templates"`
	Lost      []string `json:"lost,omitempty"`
	// Notes say what else was found or could not be cleaned.
	Notes []string `json:"notes,omitempty"`
}

// Orphan is a sandbox whose owner died.
type Orphan struct {
	Sandbox string    `json:"sandbox"`
	Tenant  string    `json:"tenant"`
	System  string    `json:"system"`
	Created time.Time `json:"created"`
}
