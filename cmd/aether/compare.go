package main

import (
	"github.com/spf13/cobra"

	"github.com/aethervm/aether/vms"
)

func newCompare(a *app) *cobra.Command {
	var weights, measured string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "compare A B [--weights NAME] [--measured DIR] [--json]",
		Short: "Compare two systems axis by axis",
		Long: `Compare two systems: their scores and the difference, axis by axis. A positive
difference says that A fits better.

  aether compare gvisor docker
  aether compare qemu docker --measured aether-bench-20260102-150405

Columns: the axis, the score of A, the score of B, and A minus B.`,
		Args:              takes(2, 2),
		ValidArgsFunction: completeSystemArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			w, err := vms.ParseWeights(weights)
			if err != nil {
				return unknownName(err)
			}
			pair, err := a.profilesOf(args, measured)
			if err != nil {
				return err
			}
			for i := range pair {
				pair[i].Fitness = w.Fitness(pair[i].Axes)
			}
			if asJSON {
				return a.printJSON(vms.CompareProfiles(pair[0], pair[1]))
			}
			return vms.WriteComparison(a.out, pair[0], pair[1])
		},
	}
	cmd.Flags().StringVar(&weights, "weights", "", "`name` of the workload that the axes are weighed for (see \"aether rank --help\")")
	measuredFlag(cmd, &measured)
	jsonFlag(cmd, &asJSON)
	complete(cmd, "weights", weightsNames())
	return cmd
}
