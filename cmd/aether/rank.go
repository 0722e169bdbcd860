package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/bench"
	"github.com/aethervm/aether/vms"
)

func newRank(a *app) *cobra.Command {
	var weights, measured string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "rank [--weights NAME] [--measured DIR] [--json]",
		Short: "Rank the seven systems",
		Long: `Rank the seven systems, best first. Scores run from 0 to 1 and are computed from
evidence by one rubric for all (docs/RUBRIC.md); "aether profile NAME" shows the evidence.

  aether rank
  aether rank --weights multi-tenant
  aether rank --measured aether-bench-20260102-150405

With --measured, systems that the bench in DIR has measured are ranked by what was
measured on that host; the others, and axes that it was not asked for, stay with what is
published. The last column tells which is which: figures of different kinds are not from
the same hardware.

Columns:
  system         canonical name
  fitness        mean of the five scores, by the weights
  start          start latency: from the call to a reply from inside
  density        memory that one more idle sandbox costs the host
  isolation      what guest code sees and reaches, and what confines it
  snapshot       what survives a snapshot, how fast, and whether copies are unique
  agent-control  what an agent gets done, and what it costs in calls and tokens
  evidence       how many figures of which kind the scores are from

Weights:
` + weightsHelp(),
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			w, err := vms.ParseWeights(weights)
			if err != nil {
				return unknownName(err)
			}
			profiles, err := a.profiles(measured)
			if err != nil {
				return err
			}
			ranked := vms.RankProfiles(profiles, w)
			if asJSON {
				return a.printJSON(ranked)
			}
			return vms.WriteRanking(a.out, ranked)
		},
	}
	cmd.Flags().StringVar(&weights, "weights", "", "`name` of the workload that the axes are weighed for")
	measuredFlag(cmd, &measured)
	jsonFlag(cmd, &asJSON)
	complete(cmd, "weights", weightsNames())
	return cmd
}

func weightsNames() []string {
	var names []string
	for _, w := range vms.AllWeights() {
		names = append(names, w.Name())
	}
	return names
}

func weightsHelp() string {
	var b strings.Builder
	for _, w := range vms.AllWeights() {
		fmt.Fprintf(&b, "  %-13s  %s\n", w.Name(), w.About())
	}
	return strings.TrimRight(b.String(), "\n")
}

func measuredFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "measured", "", "results `directory` of aether bench, in place of published figures")
	_ = cmd.MarkFlagDirname("measured") // the flag exists
}

// profiles returns a profile of each system, from what the results in dir measured of it and from
// what is published of the rest: other systems, and axes that were not asked for. An empty dir is
// none.
func (a *app) profiles(dir string) ([]vms.Profile, error) {
	all := vms.Profiles()
	if dir == "" {
		return all, nil
	}
	r, err := loadResults(dir)
	if err != nil {
		return nil, err
	}
	if !r.Complete {
		a.notice("the bench in %s has not come to its end; what it has not measured yet is unknown, which scores 0", dir)
	}
	for _, measured := range r.Profiles() {
		i := slices.IndexFunc(all, func(p vms.Profile) bool { return p.VM == measured.VM })
		if i < 0 {
			continue
		}
		evidence := measured.Evidence
		for _, e := range all[i].Evidence {
			if !slices.Contains(r.Axes, bench.Axis(e.Axis.String())) {
				evidence = append(evidence, e)
			}
		}
		all[i] = vms.NewProfile(measured.VM, evidence)
	}
	return all, nil
}

// profilesOf are the profiles of systems, each by any of its names.
func (a *app) profilesOf(names []string, dir string) ([]vms.Profile, error) {
	systems := make([]vms.VM, len(names))
	for i, name := range names {
		var err error
		if systems[i], err = vms.Parse(name); err != nil {
			return nil, unknownName(err)
		}
	}
	all, err := a.profiles(dir)
	if err != nil {
		return nil, err
	}
	asked := make([]vms.Profile, len(systems))
	for i, vm := range systems {
		asked[i] = vm.Profile()
		if at := slices.IndexFunc(all, func(p vms.Profile) bool { return p.VM == vm }); at >= 0 {
			asked[i] = all[at]
		}
	}
	return asked, nil
}

func loadResults(dir string) (*bench.Results, error) {
	r, err := bench.Load(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, notFound(err, "`aether bench --out "+dir+"` makes one", "no results directory %s", dir)
	case err != nil:
		return nil, failed(err, "the directory must be one that aether bench wrote", "%v", err)
	}
	return r, nil
}
