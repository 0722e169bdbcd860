package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
)

func newSnapshot(a *app) *cobra.Command {
	var o saveOptions
	cmd := &cobra.Command{
		Use:   "snapshot [SANDBOX [flags]]",
		Short: "Save sandboxes, and make sandboxes from what was saved",
		Long: `Save a sandbox, which goes on; make a new one from a snapshot, any number of times; or put one
back to a snapshot of it. Snapshots are the tenant's and stay until they are removed.

  sn=$(aether snapshot SANDBOX --name clean)      the same as aether snapshot save SANDBOX
  aether restore $sn                              a new sandbox; also aether snapshot restore
  aether snapshot rollback SANDBOX clean          the sandbox itself, back to its snapshot
  aether snapshot ls --of SANDBOX
  aether snapshot rm $sn` + needsServer,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && runtime.IsSandboxID(args[0]) {
				return nil
			}
			return commandArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return a.saveSnapshot(cmd.Context(), args[0], o)
		},
	}
	o.register(cmd)
	for _, sub := range []*cobra.Command{newSnapshotSave(a), newSnapshotRestore(a), newSnapshotRollback(a), newSnapshotList(a), newSnapshotRemove(a)} {
		sub.DisableFlagsInUseLine = true
		cmd.AddCommand(sub)
	}
	return cmd
}

type saveOptions struct {
	clientOptions
	name, key string
	asJSON    bool
}

func (o *saveOptions) register(cmd *cobra.Command) {
	o.clientOptions.register(cmd)
	cmd.Flags().StringVar(&o.name, "name", "", "a `name`, for people and for rollback")
	cmd.Flags().StringVar(&o.key, "key", "", "idempotency `key`: the second call with it answers as the first did")
	jsonFlag(cmd, &o.asJSON)
}

func (a *app) saveSnapshot(ctx context.Context, sandboxID string, o saveOptions) error {
	return o.asking(func(c *client.Client) error {
		info, err := c.Snapshot(ctx, sandboxID, o.name, o.key)
		if err != nil {
			return err
		}
		if o.asJSON {
			return a.printJSON(info)
		}
		return a.printf("%s\n", info.ID)
	})
}

func newSnapshotSave(a *app) *cobra.Command {
	var o saveOptions
	cmd := &cobra.Command{
		Use:   "save SANDBOX [flags]",
		Short: "Save a sandbox, and print the ID of the snapshot",
		Long: `Save a sandbox, with its memory where its system can, and print the ID of the snapshot. The
sandbox goes on.

  snap=$(aether snapshot save SANDBOX --name before)`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.saveSnapshot(cmd.Context(), args[0], o) },
	}
	o.register(cmd)
	return cmd
}

// newRestore is `aether restore`: what `aether snapshot restore` is, where one looks for it first.
func newRestore(a *app) *cobra.Command {
	cmd := newSnapshotRestore(a)
	cmd.Long = `Make a sandbox from a snapshot, any number of times, and print its ID. It goes on from where the
saved one was, as a sandbox of its own. "aether snapshot rollback" puts a sandbox itself back.

  sn=$(aether snapshot SANDBOX)
  sb=$(aether restore $sn)` + needsServer
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
		Use:   "rollback SANDBOX SNAPSHOT|NAME [flags]",
		Short: "Put a sandbox back to a snapshot; what runs in it ends",
		Long: `Put a sandbox back to any snapshot that was taken of it, by the snapshot's ID, or by a name: the
last one of the sandbox that has it. Its ID stays; what runs in it ends. It can be put back and
forth: the snapshots stay.

  aether snapshot SANDBOX --name clean
  aether snapshot rollback SANDBOX clean`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.asking(func(c *client.Client) error {
				id, err := checkpoint(cmd.Context(), c, args[0], args[1])
				if err != nil {
					return err
				}
				sb, err := c.Rollback(cmd.Context(), args[0], id)
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

// checkpoint finds the snapshot that a rollback or a comparison names: an ID, or the last one of the sandbox that has the name.
func checkpoint(ctx context.Context, c *client.Client, sandboxID, name string) (string, error) {
	if runtime.IsSnapshotID(name) {
		return name, nil
	}
	list, err := c.Snapshots(ctx)
	if err != nil {
		return "", err
	}
	for _, s := range slices.Backward(list) { // the newest is last
		if s.Sandbox == sandboxID && s.Name == name {
			return s.ID, nil
		}
	}
	return "", &failure{code: exitNotFound, kind: "not-found", message: fmt.Sprintf("sandbox %s has no snapshot of the name %q", sandboxID, name),
		remedy: "`aether snapshot ls --of " + sandboxID + "` lists those that it has"}
}

func newSnapshotList(a *app) *cobra.Command {
	var o clientOptions
	var asJSON bool
	var of string
	cmd := &cobra.Command{
		Use:   "ls [flags]",
		Short: "List the snapshots of the tenant",
		Long: `List the snapshots of the tenant, those of all its sessions, or those that were taken of one
sandbox.

  aether snapshot ls --json
  aether snapshot ls --of SANDBOX

Columns:
  name  as given; several may have the same
  kind  full: with memory and what runs; files: with files only
  size  on disk in MiB
  of    the sandbox that was saved`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.asking(func(c *client.Client) error {
				list, err := c.Snapshots(cmd.Context())
				if err != nil {
					return err
				}
				if of != "" {
					list = slices.DeleteFunc(list, func(s runtime.SnapshotInfo) bool { return s.Sandbox != of })
				}
				if asJSON {
					return a.printJSON(map[string]any{"snapshots": list})
				}
				t := table{head: []string{"snapshot", "name", "system", "kind", "image", "size", "age", "of"}, right: map[int]bool{5: true}}
				for _, s := range list {
					t.add(s.ID, s.Name, s.System, string(s.Kind), s.Image, strconv.FormatInt(s.Bytes>>20, 10), age(s.Created), s.Sandbox)
				}
				return t.write(a.out)
			})
		},
	}
	o.register(cmd)
	cmd.Flags().StringVar(&of, "of", "", "only those of this `sandbox`")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newSnapshotRemove(a *app) *cobra.Command {
	var o clientOptions
	cmd := &cobra.Command{
		Use:     "rm SNAPSHOT... [flags]",
		Aliases: []string{"remove"},
		Short:   "Remove snapshots; sandboxes that were restored from them live on",
		Long: `Remove snapshots, by their IDs, and free what they take. Sandboxes that were restored from one
live on. Of several, one that cannot be removed holds up no other.

  aether snapshot rm SNAPSHOT`,
		Args: takes(1, math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.asking(func(c *client.Client) error {
				return a.forEach(args, func(id string) error { return c.RemoveSnapshot(cmd.Context(), id) })
			})
		},
	}
	o.register(cmd)
	return cmd
}
