package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/sandbox"
)

func newTemplate(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "template",
		Short: "Make, list, use and remove templates: sandboxes on disk that others go on from",
		Long: `A template is a sandbox that was made ready and then saved: its kernel runs, its programs
have been started, what they need is in memory. A sandbox made of it goes on from there,
as another machine with random numbers, a clock, names and addresses of its own, and maps
the template's memory instead of reading it. Only AetherVM has them.

  aether template create py --warm 'python3 -c "import json, ssl"'
  aether template run py -- python3 -c 'print(6*7)'
  aether new --template py
  aether template ls
  aether template rm py

They are kept in the state directory (/var/lib/aether for root; AETHER_STATE=DIR puts them
elsewhere), and hold all that was in the sandbox's memory.` + whereTemplates,
		Args: commandArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, sub := range []*cobra.Command{newTemplateCreate(a), newTemplateRun(a), newTemplateList(a), newTemplateRemove(a), newTemplateShare(a)} {
		sub.DisableFlagsInUseLine = true
		cmd.AddCommand(sub)
	}
	return cmd
}

type templateOptions struct {
	templateWhere
	image         string
	memory, vcpus int
	network       networkOptions
	warm          []string
	key           string
	asJSON        bool
}

func newTemplateCreate(a *app) *cobra.Command {
	var o templateOptions
	cmd := &cobra.Command{
		Use:   "create NAME [--warm COMMAND]... [flags]",
		Short: "Make a template",
		Long: `Create a sandbox, run what is to be there in every copy, and save it as a template. --warm
is a shell command, and may be repeated: each is run to its end, one after the other, and
has to succeed. A program that one leaves running in the background goes on in the copies.
A name that is taken moves to the new template.

  aether template create py --memory 512 --warm 'pip list >/dev/null' --warm 'touch /root/ready'

It prints the digest of the template's content. On a terminal it shows how far it is, and what
the commands write; where there is none it is silent, and of a command that failed the end of
what it has written is in the error. --json has how long each stage took.` + whereTemplates,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.createTemplate(cmd.Context(), args[0], o) },
	}
	o.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.image, "image", image.DefaultName, "`image`, by name or digest (see \"aether image ls\")")
	flags.IntVar(&o.memory, "memory", sandbox.DefaultMemoryMiB, "memory in `MiB`")
	flags.IntVar(&o.vcpus, "vcpus", sandbox.DefaultVCPUs, "virtual CPUs")
	flags.StringArrayVar(&o.warm, "warm", nil, "shell `command` to run in it before (repeatable)")
	flags.StringVar(&o.key, "key", "", "of a server: idempotency `key`: the second call with it answers as the first did")
	o.network.register(cmd)
	jsonFlag(cmd, &o.asJSON)
	return cmd
}

// madeTemplate is a template, and how long each stage of its making has taken.
type madeTemplate struct {
	runtime.TemplateInfo
	Stages []stageTook `json:"stages"`
}

func (a *app) createTemplate(ctx context.Context, name string, o templateOptions) error {
	if err := o.network.check(); err != nil {
		return err
	}
	return a.withTemplates(ctx, o.templateWhere, func(host templateHost) error {
		told := a.tellTemplate(name, o.warm)
		made, err := host.create(ctx, name, o, told)
		stages := told.close()
		if err != nil {
			return err
		}
		if o.asJSON {
			return a.printJSON(madeTemplate{made, stages})
		}
		return a.printf("%s\n", made.Digest)
	})
}

func newTemplateList(a *app) *cobra.Command {
	var where templateWhere
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List templates",
		Long: `List templates: those that can be copied here.

  aether template ls

Columns:
  name     what it is called by
  digest   of its content
  size     space on disk in MiB
  memory   of its copies in MiB
  vcpus    of its copies
  network  of its copies
  created  when it was made
  shared   of a server: whether all its tenants may copy it

--json has the ID, too, which stays with the template when another one takes over its name. Among
this host's are those that servers keep here, under names such as rt7ey3vthftg.tmrq2vxcca5h: with
a server they have their own names, and are removed.` + whereTemplates,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withTemplates(cmd.Context(), where, func(host templateHost) error {
				list, err := host.list(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(list)
				}
				t := table{
					head:  []string{"name", "digest", "size", "memory", "vcpus", "network", "created", "shared"},
					right: map[int]bool{2: true, 3: true, 4: true},
				}
				for _, e := range list {
					shared := ""
					switch {
					case e.Shared && e.Foreign:
						shared = "by another"
					case e.Shared:
						shared = "yes"
					}
					t.add(e.Name, e.Digest[:min(len(e.Digest), len("sha256:")+12)], fmt.Sprintf("%.1f", float64(e.Bytes)/(1<<20)),
						fmt.Sprint(e.MemoryMiB), fmt.Sprint(e.VCPUs), string(e.Network), e.Created.UTC().Format("2006-01-02 15:04"), shared)
				}
				return t.write(a.out)
			})
		},
	}
	where.register(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newTemplateRemove(a *app) *cobra.Command {
	var where templateWhere
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "rm NAME... [flags]",
		Aliases: []string{"remove"},
		Short:   "Remove templates",
		Long: `Remove templates. Sandboxes that were made of them live on.

  aether template rm py

It prints what was removed, one a line.` + whereTemplates,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError("`aether template ls` lists the templates", "%s: an argument is missing", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withTemplates(cmd.Context(), where, func(host templateHost) error {
				return a.removeEach(args, asJSON, "`aether template ls` lists the templates", func(name string) error {
					return host.remove(cmd.Context(), name)
				})
			})
		},
	}
	where.register(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}
