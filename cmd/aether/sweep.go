package main

import (
	"errors"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/driver/all"
	"github.com/aethervm/aether/sandbox"
)

func newSweep(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "sweep [--json]",
		Short: "Remove what dead processes have left on the host",
		Long: `Remove the sandboxes of aether processes that died without closing them: containers,
processes, mounts, cgroups, network namespaces, files. Sandboxes of living processes
are never touched. Every command that uses sandboxes sweeps first, so this is needed
only to have it done now.

  aether sweep

Columns: the system, how many of its sandboxes were removed, and what went wrong.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			f := a.openFleet(all.Options{})
			defer f.close(&err)
			results := f.sweep(cmd.Context())
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			var errs []error
			t := table{head: []string{"system", "removed", "note"}, right: map[int]bool{1: true}}
			for i := range results {
				s := &results[i]
				if errors.Is(s.err, sandbox.ErrUnavailable) { // a system that is not there left nothing
					s.err, s.Error = nil, ""
				}
				if s.err != nil {
					errs = append(errs, s.err)
				}
				t.add(s.System, strconv.Itoa(s.Removed), s.Error)
			}
			if asJSON {
				err = a.printJSON(results)
			} else {
				err = t.write(a.out)
			}
			if err == nil && len(errs) > 0 {
				err = &failure{code: exitPartly, kind: "partly", err: errors.Join(errs...),
					remedy: "run it as the user who made them, or as root"}
			}
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
