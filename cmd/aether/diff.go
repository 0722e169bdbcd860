package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
	"github.com/aethervm/aether/sandbox"
)

func newDiff(a *app) *cobra.Command {
	var o clientOptions
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff A B [PATH] [flags]",
		Short: "Show how two sandboxes differ, or what has changed since a snapshot",
		Long: `Show which files were added, removed and changed from sandbox A to sandbox B, which have the
same system and image: usually one is a copy of the other, or both are copies of a third.
Where its system knows, also how much memory each has written since they parted; that counts
whole pages, and is no difference by itself. Both go on.

Compared are type, size, content, permissions and owner, not times. /proc, /sys, /dev and
/run are left out, and what aether itself gives each copy, its machine ID.

One of them may be a snapshot, by its ID or, as in "aether snapshot rollback", by its name. It is
restored for that, to a sandbox that nobody else sees, and that counts like another one.

With PATH, the lines of that file that differ, of at most 1 MiB, in two sandboxes.

  aether diff A B
  aether diff A B --json
  aether diff A B /etc/hosts
  aether diff clean SANDBOX     what has changed since the snapshot "clean" of it

The exit code is 0 if no file differs, 1 if one does, and 2 or more if it could not be found
out, as that of diff(1). Names with control characters are quoted.` + needsServer,
		Args: takes(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			return forDiff(o.asking(func(c *client.Client) error {
				if len(args) == 3 {
					if asJSON || cmd.Flags().Changed("limit") {
						return usageError("leave PATH out, or the flag", "--json and --limit are for the list of changes, not for one file's lines")
					}
					for _, id := range args[:2] {
						if !runtime.IsSandboxID(id) {
							return usageError("`aether restore` makes a sandbox of a snapshot", "the lines of a file are compared in two sandboxes, and %q is none's ID", id)
						}
					}
					return a.diffFile(cmd.Context(), c, args[0], args[1], args[2])
				}
				if limit < 1 {
					return usageError("give --limit a number from 1 on", "the limit is %d", limit)
				}
				from, to, err := sidesOfDiff(cmd.Context(), c, args[0], args[1])
				if err != nil {
					return err
				}
				return a.diff(cmd.Context(), c, from, to, limit, asJSON)
			}))
		},
	}
	o.register(cmd)
	cmd.Flags().IntVar(&limit, "limit", 10_000, "show so many changes at most")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// sidesOfDiff are the IDs of what is compared: a name is that of a snapshot of the sandbox that is the other side.
func sidesOfDiff(ctx context.Context, c *client.Client, a, b string) (from, to string, err error) {
	isID := func(name string) bool { return runtime.IsSandboxID(name) || runtime.IsSnapshotID(name) }
	switch {
	case !isID(a) && runtime.IsSandboxID(b):
		a, err = checkpoint(ctx, c, b, a)
	case !isID(b) && runtime.IsSandboxID(a):
		b, err = checkpoint(ctx, c, a, b)
	case !runtime.IsSandboxID(a) && !runtime.IsSandboxID(b):
		err = usageError("`aether ls` lists the sandboxes; `aether restore` makes one of a snapshot", "neither %q nor %q is a sandbox's ID", a, b)
	}
	return a, b, err
}

// forDiff keeps the exit code 1 for differences.
func forDiff(err error) error {
	if err == nil {
		return nil
	}
	f := *diagnose(err)
	if f.code == exitFailed && f.kind != "exit" {
		f.code = exitTrouble
	}
	return &f
}

func (a *app) diff(ctx context.Context, c *client.Client, from, to string, limit int, asJSON bool) error {
	d, err := c.Diff(ctx, from, to, limit)
	if err != nil {
		return err
	}
	if asJSON {
		err = a.printJSON(d)
	} else {
		err = a.printDiff(d)
	}
	if err == nil && len(d.Changes) > 0 {
		err = exitWith(exitFailed)
	}
	return err
}

func (a *app) printDiff(d rest.Diff) error {
	t := table{head: []string{"change", "type", "size", "what", "path"}, right: map[int]bool{2: true}}
	count := map[sandbox.ChangeKind]int{}
	for _, change := range d.Changes {
		count[change.Kind]++
		t.add(string(change.Kind), sides(change, func(s *runtime.FileState) string { return s.Type }), sizes(change), what(change), pathOf(change))
	}
	if len(d.Changes) > 0 {
		if err := t.write(a.out); err != nil {
			return err
		}
	}
	line := fmt.Sprintf("%d added, %d removed, %d changed", count[sandbox.ChangeAdded], count[sandbox.ChangeRemoved], count[sandbox.ChangeChanged])
	if m := d.Memory; m != nil {
		line += fmt.Sprintf("; memory written since they parted: at most A %s, B %s, together %s of %s", mib(m.OwnA), mib(m.OwnB), mib(m.Differs), mib(m.Total))
	}
	if err := a.printf("%s\n", line); err != nil {
		return err
	}
	if d.Next != "" {
		a.notice("there may be more; see --limit")
	}
	if d.Skipped > 0 {
		a.notice("not looked into, because they are nested too deeply or cannot be read: %d directories", d.Skipped)
	}
	return nil
}

func mib(bytes int64) string { return strconv.FormatFloat(float64(bytes)/(1<<20), 'f', 1, 64) + " MiB" }

// sides is what a change says of A and B: one word where that is all there is to say.
func sides(c runtime.FileChange, of func(*runtime.FileState) string) string {
	switch {
	case c.A == nil && c.B == nil:
		return ""
	case c.A == nil:
		return of(c.B)
	case c.B == nil:
		return of(c.A)
	}
	if x, y := of(c.A), of(c.B); x != y {
		return x + " -> " + y
	}
	return of(c.A)
}

func sizes(c runtime.FileChange) string {
	return sides(c, func(s *runtime.FileState) string {
		if s.Type != "file" {
			return "-"
		}
		return strconv.FormatInt(s.Size, 10)
	})
}

// what is in what way a file was changed.
func what(c runtime.FileChange) string {
	if c.A == nil || c.B == nil {
		return "-"
	}
	var parts []string
	switch c.Content {
	case sandbox.ContentDiffers:
		parts = append(parts, "content")
	case sandbox.ContentUnknown:
		parts = append(parts, "content not read")
	}
	if c.A.Mode != c.B.Mode {
		parts = append(parts, c.A.Mode+" -> "+c.B.Mode)
	}
	if c.A.UID != c.B.UID || c.A.GID != c.B.GID {
		parts = append(parts, fmt.Sprintf("owner %d:%d -> %d:%d", c.A.UID, c.A.GID, c.B.UID, c.B.GID))
	}
	if c.A.Target != c.B.Target {
		parts = append(parts, "target "+quoted(c.A.Target)+" -> "+quoted(c.B.Target))
	}
	return strings.Join(parts, ", ")
}

// pathOf is the path of a change as it is shown.
func pathOf(c runtime.FileChange) string {
	if c.PathBase64 != "" {
		if raw, err := base64.StdEncoding.DecodeString(c.PathBase64); err == nil {
			return quoted(string(raw))
		}
	}
	return quoted(c.Path)
}

// quoted is a name that a sandbox has given: as it is or, where that could steer a terminal or be taken for another one, as a
// string of Go.
func quoted(name string) string {
	plain := name != "" && !strings.ContainsAny(name, `"\`) && !strings.Contains(name, "  ") && strings.TrimSpace(name) == name
	for _, r := range name {
		plain = plain && unicode.IsPrint(r) && r != unicode.ReplacementChar
	}
	if plain {
		return name
	}
	s := strconv.Quote(name)
	for strings.Contains(s, "  ") { // the table makes one of several
		s = strings.Replace(s, "  ", ` \x20`, 1)
	}
	return s
}
