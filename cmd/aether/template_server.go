package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
	"github.com/aethervm/aether/sandbox"
)

// serverTemplates are those of a server.
type serverTemplates struct{ c *client.Client }

func (s serverTemplates) create(ctx context.Context, name string, o templateOptions, told *templateTold) (runtime.TemplateInfo, error) {
	t := rest.NewTemplate{Name: name, VCPUs: o.vcpus, MemoryMiB: o.memory, Network: sandbox.Network(o.network.net), Egress: o.network.allow, WarmUp: o.warm}
	if o.image != image.DefaultName { // else what the server was started with
		t.Image = o.image
	}
	return s.c.CreateTemplate(ctx, t, o.key, client.TemplateStreams{Progress: told.progress, Stdout: told.output(), Stderr: told.output()})
}

func (s serverTemplates) list(ctx context.Context) ([]runtime.TemplateInfo, error) {
	return s.c.Templates(ctx)
}

func (s serverTemplates) remove(ctx context.Context, name string) error {
	return s.c.RemoveTemplate(ctx, name)
}

const (
	// copiesAtOnce is how many copies are asked for at the same time.
	copiesAtOnce = 4
	// copyGrace is how long copies that were asked for are waited for when the command is interrupted, to remove them.
	copyGrace = 10 * time.Second
)

func (s serverTemplates) copies(ctx context.Context, name string, n int) ([]templateCopy, error) {
	if n < 1 || n > maxForkCopies {
		return nil, &sandbox.Error{Op: "fork template", Err: sandbox.ErrInvalid, Detail: fmt.Sprintf("%d copies", n), Remedy: fmt.Sprintf("ask for 1 to %d", maxForkCopies)}
	}
	made, errs := make([]*serverCopy, n), make([]error, n)
	// One whose making is broken off may be there, and nobody would know: what was asked for is waited for.
	patient, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(copyGrace, cancel) })()
	var failed atomic.Bool
	places := make(chan struct{}, copiesAtOnce)
	var tasks sync.WaitGroup
	for i := range n {
		places <- struct{}{}
		if ctx.Err() != nil || failed.Load() {
			break
		}
		tasks.Go(func() {
			defer func() { <-places }()
			sb, err := s.c.Create(patient, rest.Spec{Template: name}, "")
			if errs[i] = err; err != nil {
				failed.Store(true)
				return
			}
			made[i] = &serverCopy{s.c, sb.ID}
		})
	}
	tasks.Wait()
	why := context.Cause(ctx)
	for _, err := range errs {
		if why == nil {
			why = err
		}
	}
	list := make([]templateCopy, 0, n)
	for _, c := range made {
		switch {
		case c == nil:
		case why != nil:
			tasks.Go(func() { _ = c.Close() })
		default:
			list = append(list, c)
		}
	}
	tasks.Wait()
	if why != nil {
		return nil, why
	}
	return list, nil
}

// serverCopy is a sandbox of a server.
type serverCopy struct {
	c  *client.Client
	id string
}

func (s *serverCopy) ID() string { return s.id }

func (s *serverCopy) Exec(ctx context.Context, cmd sandbox.Cmd) (sandbox.Exit, error) {
	res, err := s.c.Exec(ctx, s.id, rest.Run{Args: cmd.Args, Dir: cmd.Dir, Env: cmd.Env, TimeoutS: cmd.Timeout.Seconds()},
		client.Streams{Stdin: cmd.Stdin, Stdout: cmd.Stdout, Stderr: cmd.Stderr})
	return exitOf(res.ExitCode, res.Signal, res.TimedOut), err
}

// Close kills it, also when the command was interrupted.
func (s *serverCopy) Close() error { return s.c.Kill(context.Background(), s.id) }

func newTemplateShare(a *app) *cobra.Command {
	var o clientOptions
	var off, asJSON bool
	cmd := &cobra.Command{
		Use:   "share NAME [--off] [--json]",
		Short: "Let all tenants of a server copy a template, or no more",
		Long: `Let all tenants of a server copy a template of the one that --tenant names. It is for whoever
runs the server, on its host. What was in the template's memory and files is in every copy. A
new template that takes over the name is not shared.

  aether template share py
  aether template share py --off --tenant team`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.asking(func(c *client.Client) error {
				info, err := c.ShareTemplate(cmd.Context(), args[0], !off)
				if err != nil || !asJSON {
					return err
				}
				return a.printJSON(info)
			})
		},
	}
	o.register(cmd)
	cmd.Flags().BoolVar(&off, "off", false, "no more")
	jsonFlag(cmd, &asJSON)
	return cmd
}
