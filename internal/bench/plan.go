package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ErrMismatch says that a results directory belongs to another host, boot, version or
// configuration, so that its samples cannot be mixed with new ones.
var ErrMismatch = errors.New("results directory belongs to another run")

// plan is run.json: what must be equal for a directory to be taken up again.
type plan struct {
	Schema        int                 `json:"schema"`
	AetherVersion string              `json:"aether_version"`
	Started       time.Time           `json:"started"`
	Runs          int                 `json:"runs"`
	Axes          []Axis              `json:"axes"`
	Spec          SpecUsed            `json:"spec"`
	Host          Host                `json:"host"`
	Systems       map[string]planInfo `json:"systems"`
}

// planInfo is what Probe said about a system when the directory was begun.
type planInfo struct {
	Available   bool     `json:"available"`
	Version     string   `json:"version,omitempty"`
	Accelerator string   `json:"accelerator,omitempty"`
	Reason      string   `json:"reason,omitempty"`
	Remedy      string   `json:"remedy,omitempty"`
	Notes       []string `json:"notes,omitempty"`
}

// fill puts defaults into c and refuses what cannot be measured.
func (c *Config) fill(ctx context.Context) error {
	if c.Runs == 0 {
		c.Runs = DefaultRuns
	}
	if c.Runs < 1 || c.Runs > maxRuns {
		return fmt.Errorf("runs is %d: it must be 1 to %d", c.Runs, maxRuns)
	}
	for _, a := range c.Axes {
		if !validAxis(a) {
			return fmt.Errorf("unknown axis %q: it must be one of %v", a, Axes())
		}
	}
	// In fixed order and once each, so that equal requests are equal plans.
	wanted := c.Axes
	c.Axes = slices.DeleteFunc(Axes(), func(a Axis) bool { return len(wanted) > 0 && !slices.Contains(wanted, a) })
	if c.Out == "" {
		return errors.New("no results directory: name one with --out")
	}
	if len(c.Drivers) == 0 {
		return errors.New("no system to measure")
	}
	seen := map[string]bool{}
	for _, d := range c.Drivers {
		if !nameRE.MatchString(d.System()) || seen[d.System()] {
			return fmt.Errorf("bad or repeated system %q", d.System())
		}
		seen[d.System()] = true
	}
	if c.memory == nil {
		c.memory = hostMemory{}
	}
	if c.prober == nil {
		c.prober = hostProber{}
	}
	if c.surfer == nil {
		c.surfer = mcpSurfer{}
	}
	if c.Host.BootID == "" {
		h, err := CurrentHost(ctx)
		if err != nil {
			return err
		}
		c.Host = h
	}
	var err error
	c.Spec, err = c.Spec.WithDefaults()
	return err
}

func validAxis(a Axis) bool { return slices.Contains(Axes(), a) }

// matchPlan makes the plan of the directory, or checks that the one it has is the same.
func (b *bench) matchPlan(infos map[string]planInfo) error {
	spec := b.cfg.Spec
	now := plan{
		Schema:        Schema,
		AetherVersion: b.cfg.AetherVersion,
		Started:       time.Now().UTC(),
		Runs:          b.cfg.Runs,
		Axes:          b.cfg.Axes,
		Spec: SpecUsed{
			ImageDigest: spec.Image.Digest, VCPUs: spec.VCPUs, MemoryMiB: spec.MemoryMiB,
			Processes: spec.Processes, Network: spec.Network,
		},
		Host:    b.cfg.Host,
		Systems: infos,
	}
	var old *plan
	if err := b.dir.read(planName, func(content []byte) error {
		p, err := parsePlan(content)
		old = &p
		return err
	}); err != nil {
		return fmt.Errorf("read results directory %s: %w", b.cfg.Out, err)
	}
	if old == nil {
		b.plan = now
		return b.dir.writeJSON(planName, now)
	}
	if diffs := old.differences(now); len(diffs) > 0 {
		return fmt.Errorf("%s: %w: %s; choose another --out", b.cfg.Out, ErrMismatch, strings.Join(diffs, ", "))
	}
	b.plan = *old
	return nil
}

// differences names what keeps p and now from being one run.
func (p plan) differences(now plan) []string {
	var out []string
	check := func(what string, there, here any) {
		if a, b := fmt.Sprint(there), fmt.Sprint(here); a != b {
			out = append(out, fmt.Sprintf("its %s is %s and not %s", what, orNone(a), orNone(b)))
		}
	}
	check("host's CPU", p.Host.CPU, now.Host.CPU)
	check("host's number of CPUs", p.Host.CPUs, now.Host.CPUs)
	check("host's kernel", p.Host.Kernel, now.Host.Kernel)
	check("host's boot", p.Host.BootID, now.Host.BootID)
	check("version of aether", p.AetherVersion, now.AetherVersion)
	check("number of runs", p.Runs, now.Runs)
	check("list of axes", p.Axes, now.Axes)
	check("image", p.Spec.ImageDigest, now.Spec.ImageDigest)
	check("number of vCPUs", p.Spec.VCPUs, now.Spec.VCPUs)
	check("memory in MiB", p.Spec.MemoryMiB, now.Spec.MemoryMiB)
	check("limit of processes", p.Spec.Processes, now.Spec.Processes)
	check("network", p.Spec.Network, now.Spec.Network)
	check("list of available systems", p.available(), now.available())
	check("list of systems", p.names(), now.names())
	for _, name := range p.available() {
		check(name+" version", p.Systems[name].Version, now.Systems[name].Version)
		check(name+" accelerator", p.Systems[name].Accelerator, now.Systems[name].Accelerator)
	}
	return out
}

func (p plan) names() []string {
	var out []string
	for name := range p.Systems {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func orNone(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
