package main

import (
	"context"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/driver/all"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vms"
)

// templateWhere are the flags that say where templates are.
type templateWhere struct {
	clientOptions
	local   bool
	perCell copiesPerCell // of commands that have the flag
}

func (w *templateWhere) register(cmd *cobra.Command) {
	w.clientOptions.register(cmd)
	cmd.Flags().BoolVar(&w.local, "local", false, "of templates that are kept without a server, though one is there")
}

// help of the commands that use templates ends with it.
const whereTemplates = `

Where a server is named (--server, AETHER_SERVER), or "aether serve" runs on this host, templates are
the server's: made by it for a tenant, and copied by "aether new --template". Otherwise, and
with --local, they are this host's, and no server is needed.`

// templateHost keeps templates: this host, or a server.
type templateHost interface {
	create(ctx context.Context, name string, o templateOptions, told *templateTold) (runtime.TemplateInfo, error)
	list(ctx context.Context) ([]runtime.TemplateInfo, error)
	remove(ctx context.Context, name string) error
	// copies makes n sandboxes of a template, all or none.
	copies(ctx context.Context, name string, n int) ([]templateCopy, error)
}

// templateCopy is a sandbox that was made of a template.
type templateCopy interface {
	ID() string
	Exec(ctx context.Context, cmd sandbox.Cmd) (sandbox.Exit, error)
	Close() error
}

// serverDial bounds the look for a server on this host.
const serverDial = time.Second

// asks tells whether templates are a server's.
func (w templateWhere) asks(ctx context.Context) (bool, error) {
	if w.local {
		if w.clientOptions != (clientOptions{}) {
			return false, usageError("leave out one of them", "--local needs no server, and --server, --tenant and --session are for one")
		}
		return false, nil
	}
	if address, _ := w.named(); address != "" || w.tenant != "" || w.session != "" {
		return true, nil
	}
	socket, err := ownerSocket()
	if err != nil {
		return false, nil //nolint:nilerr // no server of the caller's can be there
	}
	conn, err := (&net.Dialer{Timeout: serverDial}).DialContext(ctx, "unix", socket)
	if err != nil {
		return false, ctx.Err()
	}
	return true, conn.Close()
}

// withTemplates runs f with what keeps the templates.
func (a *app) withTemplates(ctx context.Context, w templateWhere, f func(templateHost) error) (err error) {
	if err := w.perCell.check(); err != nil {
		return err
	}
	asks, err := w.asks(ctx)
	if err != nil {
		return err
	}
	if asks {
		if w.perCell != 0 {
			return usageError("leave it out, or add --local", "--copies-per-cell is for this host's templates; a server is told when it is started")
		}
		return w.asking(func(c *client.Client) error { return f(serverTemplates{c}) })
	}
	fleet := a.openFleet(all.Options{CopiesPerCell: int(w.perCell)})
	defer fleet.close(&err)
	d, err := fleet.templater()
	if err != nil {
		return err
	}
	return f(localTemplates{a, fleet, d})
}

// templater is the driver that keeps templates.
func (f *fleet) templater() (sandbox.Templater, error) {
	d, err := f.driver(vms.AetherVM.Name())
	if err != nil {
		return nil, err
	}
	t, ok := d.(sandbox.Templater)
	if !ok {
		return nil, unavailable("`aether doctor` lists what this host has", "%s has no templates here", vms.AetherVM.DisplayName())
	}
	return t, nil
}

// localTemplates are those of this host.
type localTemplates struct {
	app   *app
	fleet *fleet
	sandbox.Templater
}

func (l localTemplates) create(ctx context.Context, name string, o templateOptions, told *templateTold) (runtime.TemplateInfo, error) {
	switch {
	case o.key != "":
		return runtime.TemplateInfo{}, usageError("leave out --key, or have a server make it: `aether serve`", "--key is of a server, and none is asked")
	case runtime.ReservedTemplateName(name):
		return runtime.TemplateInfo{}, usageError("choose another name", "the name %q looks like one that a server gives", name)
	}
	img, hold, err := holdImage(o.image)
	if err != nil {
		return runtime.TemplateInfo{}, err
	}
	defer func() { _ = hold.Close() }()
	spec := sandbox.TemplateSpec{Name: name, Spec: sandbox.Spec{Image: img, VCPUs: o.vcpus, MemoryMiB: o.memory}, Progress: told.progress}
	o.network.apply(&spec.Spec)
	for _, w := range o.warm {
		spec.WarmUp = append(spec.WarmUp, sandbox.Cmd{Args: []string{"sh", "-c", w}, Stdout: told.output(), Stderr: told.output()})
	}
	l.app.sweepFirst(ctx, l.fleet)
	made, err := l.CreateTemplate(ctx, spec)
	return localTemplate(made), err
}

// localTemplate is one of this host as a server would tell of it.
func localTemplate(t sandbox.Template) runtime.TemplateInfo {
	i := runtime.TemplateInfo{ID: t.Name, Name: t.Name, System: t.System, Image: t.Spec.Image.Digest, Digest: t.Digest, VCPUs: t.Spec.VCPUs,
		MemoryMiB: t.Spec.MemoryMiB, Network: t.Spec.Network, Egress: t.Spec.Egress, Bytes: t.Bytes, Created: t.Created}
	for _, args := range t.WarmUp {
		if len(args) == 3 && args[1] == "-c" { // a shell's
			args = args[2:]
		}
		i.WarmUp = append(i.WarmUp, strings.Join(args, " "))
	}
	return i
}

func (l localTemplates) list(ctx context.Context) ([]runtime.TemplateInfo, error) {
	kept, err := l.Templates(ctx)
	list := make([]runtime.TemplateInfo, 0, len(kept))
	for _, t := range kept {
		list = append(list, localTemplate(t))
	}
	return list, err
}

func (l localTemplates) remove(ctx context.Context, name string) error {
	return l.RemoveTemplate(ctx, name)
}

func (l localTemplates) copies(ctx context.Context, name string, n int) ([]templateCopy, error) {
	l.app.sweepFirst(ctx, l.fleet)
	return localCopies(ctx, l, name, n)
}

func localCopies(ctx context.Context, d sandbox.Templater, name string, n int) ([]templateCopy, error) {
	made, err := d.ForkTemplate(ctx, name, n)
	list := make([]templateCopy, len(made))
	for i, sb := range made {
		list[i] = sb
	}
	return list, err
}
