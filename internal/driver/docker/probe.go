package docker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/client"

	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/sandbox"
)

const probeTimeout = 30 * time.Second

// Probe is Driver.Probe.
func (d *Driver) Probe(ctx context.Context) sandbox.Info {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	info := sandbox.Info{System: system}
	// The engine is asked anew each time: it may have been restarted with other options.
	eng, err := findEngine(ctx, d.opts)
	if err != nil {
		return info.Because(err)
	}
	defer eng.close()
	info.Version = eng.info.ServerVersion
	info.Accelerator = eng.runtime(d.opts)
	if eng.info.OSType != "linux" {
		info.Reason = fmt.Sprintf("the engine runs %s containers", eng.info.OSType)
		info.Remedy = "use an engine for Linux containers"
		return info
	}
	if _, known := eng.info.Runtimes[info.Accelerator]; !known {
		info.Reason = fmt.Sprintf("the engine has no runtime %q", info.Accelerator)
		info.Remedy = fmt.Sprintf("use one of %s, or add it with dockerd --add-runtime",
			strings.Join(slices.Sorted(maps.Keys(eng.info.Runtimes)), ", "))
		return info
	}
	if _, err := guestagent.Path(); err != nil {
		info.Reason = err.Error()
		info.Remedy = "build aether with `make build`"
		return info
	}
	info.Available = true
	info.Notes = eng.limits(ctx, info.Accelerator)
	return info
}

// limits says what this engine cannot do that a caller may count on.
func (e *engine) limits(ctx context.Context, runtime string) []string {
	var notes []string
	for _, l := range []struct {
		has  bool
		note string
	}{
		{e.info.MemoryLimit, "no memory limit: the memory cgroup is missing"},
		{e.info.PidsLimit, "no limit of processes: the pids cgroup is missing"},
		{e.info.CPUCfsQuota, "no limit of CPU time: the kernel has no CFS quota"},
	} {
		if !l.has {
			notes = append(notes, l.note)
		}
	}
	if e.info.MemoryLimit && !e.info.SwapLimit {
		notes = append(notes, "swap is not limited: the kernel does not account for it")
	}
	if _, err := e.cli.NetworkInspect(ctx, "bridge", client.NetworkInspectOptions{}); err != nil {
		notes = append(notes, "no outbound network: the engine has no bridge")
	}
	notes = append(notes, fmt.Sprintf("what a sandbox writes to disk is not bounded (storage driver %s)", e.info.Driver))
	if e.seesFiles(runtime) {
		return append(notes, "snapshots hold files only: a checkpoint (CRIU) takes the container's first process and its descendants, and programs run by exec are not among them")
	}
	return append(notes, fmt.Sprintf("no snapshots: the runtime %s may keep written files where the engine does not see them", runtime))
}
