package main

import (
	"github.com/spf13/cobra"

	"github.com/aethervm/aether/vms"
)

func newProfile(a *app) *cobra.Command {
	var measured string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "profile SYSTEM [--measured DIR] [--json]",
		Short: "Show the evidence behind a system's scores",
		Long: `Show what is known of a system: for each axis the score, the figures that it is
computed from with their sources, and the gaps.

  aether profile gvisor
  aether profile docker --measured aether-bench-20260102-150405

Columns:
  metric  what the figure stands for (docs/METRICS.md)
  value   the figure, with its unit where the metric's name has one
  score   what it earned, 0 to 1; "-" if it is not scored
  weight  its share of the axis
  kind    measured (by aether), published (by others, on their hardware) or
          judged (read off a document by a stated rule)
  date    of the source
  source  number of the line below that says what was measured, how, and by whom`,
		Args:              takes(1, 1),
		ValidArgsFunction: completeSystemArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			profiles, err := a.profilesOf(args, measured)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(profiles[0])
			}
			return vms.WriteProfile(a.out, profiles[0])
		},
	}
	measuredFlag(cmd, &measured)
	jsonFlag(cmd, &asJSON)
	return cmd
}
