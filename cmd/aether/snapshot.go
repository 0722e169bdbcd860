package main

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/server/rest"
)

func newSnapshot(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Save sandboxes, and make sandboxes from what was saved",
		Long: `Save a sandbox, which goes on; make a new one from a snapshot, any number of times; or put one
back to a snapshot of it. Snapshots are the tenant's and stay until they are removed.

  sn=$(aether snapshot save SANDBOX --name clean)
  aether snapshot restore $sn
  aether snapshot rollback SANDBOX $sn
  aether snapshot ls
  aether snapshot rm $sn` + needsServer,
		Args: commandArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, sub := range []*cobra.Command{newSnapshotSave(a), newSnapshotRestore(a), newSnapshotRollback(a), newSnapshotList(a), newSnapshotRemove()} {
		sub.DisableFlagsInUseLine = true
		cmd.AddCommand(sub)
	}
	return cmd
}

func newSnapshotSave(a *app) *cobra.Command {
	var o clientOptions
	var name, key string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "save SANDBOX [flags]",
		Short: "Save a sandbox, and print the ID of the snapshot",
		Long: `Save a sandbox, with its memory where its system can, and print the ID of the snapshot. The
sandbox goes on.

  snap=$(aether snapshot save SANDBOX --name before)`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.asking(func(c *client.Client) error {
				info, err := c.Snapshot(cmd.Context(), args[0], name, key)
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(info)
				}
				return a.printf("%s\n", info.ID)
			})
		},
	}
	o.register(cmd)
	cmd.Flags().StringVar(&name, "name", "", "a `name`, for people")
	cmd.Flags().StringVar(&key, "key", "", "idempotency `key`: the second call with it answers as the first did")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newSnapshotRestore(a *app) *cobra.Command {
	var o clientOptions
	var ttl time.Duration
	var key string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "restore SNAPSHOT [flags]",
		Short: "Make a sandbox from a snapshot, and print its ID",
		Long: `Make a sandbox from a snapshot, any number of times, and print its ID.

  sb=$(aether snapshot restore SNAPSHOT)`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.asking(func(c *client.Client) error {
				sb, err := c.Restore(cmd.Context(), args[0], rest.Restore{TTLS: ttl.Seconds()}, key)
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(sb)
				}
				return a.printf("%s\n", sb.ID)
			})
		},
	}
	o.register(cmd)
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "kill it after so long, whatever goes on in it; 0 is never")
	cmd.Flags().StringVar(&key, "key", "", "idempotency `key`: the second call with it answers as the first did")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newSnapshotRollback(a *app) *cobra.Command {
	var o clientOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "rollback SANDBOX SNAPSHOT [flags]",
		Short: "Put a sandbox back to a snapshot; what runs in it ends",
		Long: `Put a sandbox back to a snapshot that was taken of it. Its ID stays; what runs in it ends.

  aether snapshot rollback SANDBOX SNAPSHOT`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.asking(func(c *client.Client) error {
				sb, err := c.Rollback(cmd.Context(), args[0], args[1])
				if err != nil || !asJSON {
					return err
				}
				return a.printJSON(sb)
			})
		},
	}
	o.register(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newSnapshotList(a *app) *cobra.Command {
	var o clientOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls [flags]",
		Short: "List the snapshots of the tenant",
		Long: `List the snapshots of the tenant, those of all its sessions.

  aether snapshot ls --json`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.asking(func(c *client.Client) error {
				list, err := c.Snapshots(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(map[string]any{"snapshots": list})
				}
				t := table{head: []string{"SNAPSHOT", "NAME", "SYSTEM", "KIND", "IMAGE", "MIB", "AGE", "OF"}, right: map[int]bool{5: true}}
				for _, s := range list {
					t.add(s.ID, s.Name, s.System, string(s.Kind), s.Image, strconv.FormatInt(s.Bytes>>20, 10), age(s.Created), s.Sandbox)
				}
				return t.write(a.out)
			})
		},
	}
	o.register(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newSnapshotRemove() *cobra.Command {
	var o clientOptions
	cmd := &cobra.Command{
		Use:   "rm SNAPSHOT [flags]",
		Short: "Remove a snapshot; sandboxes that were restored from it live on",
		Long: `Remove a snapshot, and free what it takes. Sandboxes that were restored from it live on.

  aether snapshot rm SNAPSHOT`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.asking(func(c *client.Client) error { return c.RemoveSnapshot(cmd.Context(), args[0]) })
		},
	}
	o.register(cmd)
	return cmd
}
