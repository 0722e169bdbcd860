package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
)

// maxAuditEntries bounds what one call asks for.
const maxAuditEntries = 100_000

func newAudit(a *app) *cobra.Command {
	var o clientOptions
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "audit [SANDBOX] [flags]",
		Short: "Show what was done with the tenant's sandboxes, or check that the record of it is whole",
		Long: `Show what was done with the tenant's sandboxes, by whom and with what result, the newest first.
The record is never changed: each entry holds the digest of the one before.

  aether audit
  aether audit SANDBOX -n 20
  aether audit --json | jq '.entries[] | select(.result != "ok")'
  aether audit verify` + needsServer,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > maxAuditEntries {
				return usageError(fmt.Sprintf("ask for 1 to %d", maxAuditEntries), "-n %d", limit)
			}
			return o.asking(func(c *client.Client) error {
				list, err := c.Audit(cmd.Context(), strings.Join(args, ""), limit)
				switch {
				case err != nil:
					return err
				case asJSON:
					return a.printJSON(map[string]any{"entries": list})
				}
				return a.printAudit(list)
			})
		},
	}
	o.register(cmd)
	jsonFlag(cmd, &asJSON)
	cmd.Flags().IntVarP(&limit, "limit", "n", 100, "how many entries at most")
	verify := newAuditVerify(a)
	verify.DisableFlagsInUseLine = true
	cmd.AddCommand(verify)
	return cmd
}

func (a *app) printAudit(list []rest.AuditEntry) error {
	t := table{head: []string{"time", "what", "sandbox", "session", "result", "took", "particulars"}, right: map[int]bool{5: true}}
	for _, e := range list {
		var what []string
		for _, name := range slices.Sorted(maps.Keys(e.What)) {
			what = append(what, name+"="+e.What[name])
		}
		result := e.Result
		if e.Cause != "" {
			result += ": " + e.Cause
		}
		t.add(e.Time.Local().Format(time.DateTime), e.Op, e.Sandbox, e.Session, result, (time.Duration(e.DurationMS) * time.Millisecond).String(), strings.Join(what, " "))
	}
	return t.write(a.out)
}

func newAuditVerify(a *app) *cobra.Command {
	var state string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify [flags]",
		Short: "Check that no entry of a server's audit log was changed, added, moved or taken out",
		Long: `Check that every entry of a server's audit log is as it was written, that none is missing, and
that none is cut off at the end. It reads the server's state directory, all tenants' entries, and
asks no server. While one runs, what is cut off at the end does not show. It exits with 1, and says
which line it is, if something is wrong.

  aether audit verify
  aether audit verify --state DIR --json`,
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) (err error) {
			if state == "" {
				if state, err = serveState(); err != nil {
					return err
				}
			}
			report, err := runtime.VerifyAudit(state)
			if err != nil {
				return fromRuntime(err)
			}
			if asJSON {
				return a.printJSON(report)
			}
			if report.InUse {
				a.notice("a server is using the log: what was cut off at its end does not show")
			}
			if report.Torn > 0 {
				a.notice("%d bytes behind the last entry are no whole one: it is being written, or a server was killed meanwhile", report.Torn)
			}
			return a.printf("%d entries are as they were written; digest of the last: %s\n", report.Entries, report.Head)
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "state `directory` of the server (default: that of `aether serve`)")
	jsonFlag(cmd, &asJSON)
	return cmd
}
