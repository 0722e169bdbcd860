package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/bench"
	"github.com/aethervm/aether/internal/driver/all"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/report"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vms"
)

// reportName is the page in a results directory.
const reportName = "report.html"

type benchOptions struct {
	systems, axes       []string
	runs                int
	out, json           string
	image               string
	memory, vcpus       int
	dockerRuntime       string
	requestedExplicitly bool
}

func newBench(a *app) *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench [--vm NAME]... [--axis NAME]... [--runs N] [--json FILE] [--out DIR]",
		Short: "Measure the systems of this host on the five axes",
		Long: `Measure every system that this host has, side by side: each round does each step to
every system in turn. It needs an image ("aether image ls") and, for most systems, root.

  aether bench
  aether bench --vm docker --vm gvisor --axis start-latency --runs 30
  aether bench --json - | jq '.systems.docker.metrics'

The results directory gets every raw sample (samples.jsonl), what is computed from them
(summary.json) and a page to read (report.html); the ranking is printed, with the columns
of "aether rank", and what was not available. Metrics are described in docs/METRICS.md.

Ctrl-C stops it and removes the sandboxes; what is measured is kept. The same command
with --out DIR goes on from there.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.requestedExplicitly = len(o.systems) > 0
			return a.bench(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&o.systems, "vm", nil, "`system` to measure (repeatable); all by default")
	flags.StringArrayVar(&o.axes, "axis", nil, "`axis` to measure (repeatable); all by default")
	flags.IntVar(&o.runs, "runs", bench.DefaultRuns, "rounds")
	flags.StringVar(&o.out, "out", "", "results `directory`; aether-bench-DATE-TIME by default")
	flags.StringVar(&o.json, "json", "", "write the summary to `FILE` too; - is standard output, in place of the table")
	flags.StringVar(&o.image, "image", image.DefaultName, "`image`, by name or digest")
	flags.IntVar(&o.memory, "memory", sandbox.DefaultMemoryMiB, "memory of each sandbox in `MiB`")
	flags.IntVar(&o.vcpus, "vcpus", sandbox.DefaultVCPUs, "virtual CPUs of each sandbox")
	flags.StringVar(&o.dockerRuntime, "docker-runtime", "", "runtime of the Docker engine (\"kata\", \"runsc\")")
	completeSystems(cmd, "vm")
	completeAxes(cmd, "axis")
	_ = cmd.MarkFlagDirname("out") // the flag exists
	return cmd
}

func (a *app) bench(ctx context.Context, o benchOptions) (err error) {
	axes, err := parseAxes(o.axes)
	if err != nil {
		return err
	}
	if o.runs < 1 {
		return usageError("it must be 1 or more", "--runs is %d", o.runs)
	}
	f := a.openFleet(all.Options{DockerRuntime: o.dockerRuntime})
	defer f.close(&err)
	drivers, err := f.selected(o.systems)
	if err != nil {
		return err
	}
	spec, release, err := execOptions{programOptions: programOptions{image: o.image}, memory: o.memory, vcpus: o.vcpus}.spec()
	if err != nil {
		return err
	}
	defer release()
	host, err := bench.CurrentHost(ctx)
	if err != nil {
		return err
	}
	host.Facts = hostFacts(ctx)
	if o.out == "" {
		o.out = "aether-bench-" + time.Now().Format("20060102-150405")
	}
	a.sweepFirst(ctx, f)
	bar := a.newProgress()
	r, err := bench.Run(ctx, bench.Config{
		Drivers: drivers, Axes: axes, Runs: o.runs, Spec: spec, Out: o.out,
		AetherVersion: currentVersion().String(), Host: host,
		Progress: func(e bench.Event) { bar.event(e, o.runs) },
	})
	bar.close()
	if err != nil {
		return benchError(ctx, err, o.out)
	}
	return a.benchDone(r, o)
}

// benchDone writes what a finished bench has to show.
func (a *app) benchDone(r *bench.Results, o benchOptions) error {
	page := filepath.Join(o.out, reportName)
	if err := writeWhole(page, func(w io.Writer) error { return report.Write(w, r) }); err != nil {
		return err
	}
	switch o.json {
	case "":
	case "-":
		if err := a.printJSON(r); err != nil {
			return err
		}
	default:
		if err := writeWhole(o.json, func(w io.Writer) error { return writeJSON(w, r) }); err != nil {
			return err
		}
	}
	if o.json != "-" {
		if err := a.printResults(r); err != nil {
			return err
		}
	}
	a.notice("results and samples are in %s, the report is %s", o.out, page)
	return verdict(r, o)
}

// printResults prints the ranking of what was measured, then what was not and why.
func (a *app) printResults(r *bench.Results) error {
	if err := vms.WriteRanking(a.out, vms.RankProfiles(r.Profiles(), vms.Equal())); err != nil {
		return err
	}
	if skipped := unasked(r); skipped != "" {
		if err := a.printf("Not asked for in this bench, and therefore 0 here: %s.\n", skipped); err != nil {
			return err
		}
	}
	t := table{head: []string{"not measured", "reason"}}
	for _, vm := range vms.All() {
		s := r.Systems[vm.Name()]
		if s == nil || s.Reason == "" && len(s.Metrics) > 0 {
			continue
		}
		t.add(vm.Name(), reasonAndRemedy(s.Reason, s.Remedy))
	}
	if len(t.rows) == 0 {
		return nil
	}
	if err := a.printf("\n"); err != nil {
		return err
	}
	return t.write(a.out)
}

// unasked names the axes that r was not asked to measure. In a ranking they score 0.
func unasked(r *bench.Results) string {
	var names []string
	for _, axis := range bench.Axes() {
		if !slices.Contains(r.Axes, axis) {
			names = append(names, string(axis))
		}
	}
	return strings.Join(names, ", ")
}

func reasonAndRemedy(reason, remedy string) string {
	if remedy == "" {
		return reason
	}
	return reason + " (" + remedy + ")"
}

// verdict is an error if what was asked for could not be measured, or not all of it.
func verdict(r *bench.Results, o benchOptions) error {
	var whole, partial, absent []string
	for _, vm := range vms.All() {
		s := r.Systems[vm.Name()]
		switch {
		case s == nil:
		case !s.Available:
			absent = append(absent, vm.Name())
		case s.Reason != "" || len(s.Axes) < len(r.Axes):
			partial = append(partial, vm.Name())
		default:
			whole = append(whole, vm.Name())
		}
	}
	const remedy = "the table and the report tell why"
	switch {
	case len(whole)+len(partial) == 0:
		return unavailable("`aether doctor` tells what is missing", "none of the systems is available on this host")
	case len(partial) > 0:
		return &failure{code: exitPartly, kind: "partly", remedy: remedy,
			message: "not measured to the end: " + strings.Join(partial, ", ")}
	case o.requestedExplicitly && len(absent) > 0:
		return &failure{code: exitPartly, kind: "partly", remedy: remedy,
			message: "not available on this host: " + strings.Join(absent, ", ")}
	}
	return nil
}

// benchError adds what to do about a bench that did not come to its end.
func benchError(ctx context.Context, err error, out string) error {
	switch {
	case ctx.Err() != nil:
		return &failure{code: exitFailed, kind: "interrupted", err: err,
			remedy: fmt.Sprintf("run the same command with --out %s again: it goes on from where it stopped", out)}
	case errors.Is(err, bench.ErrBusy):
		return failed(err, "wait for it, or choose another --out", "%v", err)
	case errors.Is(err, bench.ErrMismatch):
		return failed(err, "choose another --out", "%v", err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return failed(err, "free some space, or choose another --out; the same command then goes on", "%v", err)
	}
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		return failed(err, "choose another --out, where you may write", "%v", err)
	}
	return err
}

func parseAxes(names []string) ([]bench.Axis, error) {
	var axes []bench.Axis
	for _, name := range names {
		axis, err := vms.ParseAxis(name)
		if err != nil {
			return nil, unknownName(err)
		}
		axes = append(axes, bench.Axis(axis.String()))
	}
	return axes, nil
}

// selected returns the drivers of the systems named, each once; all if none is named.
func (f *fleet) selected(names []string) ([]sandbox.Driver, error) {
	if len(names) == 0 {
		return f.drivers, nil
	}
	var drivers []sandbox.Driver
	for _, name := range names {
		d, err := f.driver(name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(drivers, d) {
			drivers = append(drivers, d)
		}
	}
	return drivers, nil
}

// event shows what a bench does.
func (p *progress) event(e bench.Event, runs int) {
	switch e.Kind {
	case bench.EventStep:
		group := fmt.Sprintf("round %d of %d: %s", e.Round+1, runs, e.Step)
		p.steps(group+" "+e.System, group, e.Done, e.Total)
	case bench.EventWarmup:
		p.steps("warm-up "+e.System, "warm-up of "+e.System, e.Done, e.Total)
	case bench.EventAbsent:
		p.line("%s is not available: %s", e.System, e.Text)
	case bench.EventFailure, bench.EventDropped, bench.EventSwept:
		where := e.System
		if e.Step != "" {
			where += " " + e.Step
		}
		p.line("%s: %s: %s", where, e.Kind, e.Text)
	case bench.EventResumed:
		p.line("going on: %s", e.Text)
	case bench.EventSample, bench.EventDone:
	}
}
