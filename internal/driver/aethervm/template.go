package aethervm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/aethervm/aether/internal/tail"
	"github.com/aethervm/aether/sandbox"
)

// CreateTemplate is sandbox.Templater's.
func (d *Driver) CreateTemplate(ctx context.Context, spec sandbox.TemplateSpec) (sandbox.Template, error) {
	const op = "create template"
	if err := checkTemplateName(op, spec.Name); err != nil {
		return sandbox.Template{}, err
	}
	if spec.Spec.Outside != nil {
		return sandbox.Template{}, &sandbox.Error{Op: op, System: System, Err: sandbox.ErrUnsupported,
			Detail: "what opens a sandbox's flows cannot be kept on disk, as secrets cannot", Remedy: "leave it out"}
	}
	t, err := d.createTemplate(ctx, op, spec)
	if err != nil {
		return sandbox.Template{}, keptError(ctx, op, err)
	}
	return t, nil
}

func (d *Driver) createTemplate(ctx context.Context, op string, spec sandbox.TemplateSpec) (t sandbox.Template, err error) {
	store, err := openTemplates()
	if err != nil {
		return t, err
	}
	place, err := store.begin(ctx)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, place.abandon()) }()
	// Whatever goes wrong with its sandbox, does so before there is a template.
	if t, err = d.fillTemplate(ctx, op, spec, place.dir); err != nil {
		return t, err
	}
	d.parked.forget() // it may replace the one that they are of
	return t, place.publish(ctx, t)
}

// fillTemplate makes a sandbox what a template is to be, writes that to a directory, and closes the sandbox.
func (d *Driver) fillTemplate(ctx context.Context, op string, spec sandbox.TemplateSpec, dir string) (t sandbox.Template, err error) {
	tell := teller(spec.Progress)
	tell.stage(sandbox.TemplateBoot)
	made, err := d.Create(ctx, spec.Spec)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, made.Close()) }()
	s, ok := made.(*Sandbox)
	if !ok {
		return t, errors.New("it is no sandbox of this driver") // the keeper returns what it was given
	}
	t = sandbox.Template{System: System, Name: spec.Name, Created: time.Now().UTC(), Spec: s.spec}
	for i, cmd := range spec.WarmUp {
		tell.tell(sandbox.TemplateProgress{Stage: sandbox.TemplateWarmUp, Program: i})
		t.WarmUp = append(t.WarmUp, cmd.Args)
		if err := warmUp(ctx, s, cmd); err != nil {
			return t, err
		}
	}
	tell.stage(sandbox.TemplateFreeze)
	b, err := s.branch(ctx, op, 1)
	if err != nil {
		return t, err
	}
	// It has done its part, and would take processor time from the copy that is made for trial.
	var k kept
	if err = s.Pause(ctx); err == nil {
		k, err = s.original(b).keep(ctx, dir, true, tell)
	}
	t.Digest, t.Bytes = k.digest, k.bytes
	return t, errors.Join(err, b.Close())
}

// teller is told how far the making of a template is; it may be nil.
type teller func(sandbox.TemplateProgress)

func (t teller) tell(p sandbox.TemplateProgress) {
	if t != nil {
		t(p)
	}
}

func (t teller) stage(s sandbox.TemplateStage) { t.tell(sandbox.TemplateProgress{Stage: s}) }

// bytes is what a writer tells of a stage; nil for nobody.
func (t teller) bytes(s sandbox.TemplateStage) func(done, total uint64) {
	if t == nil {
		return nil
	}
	return func(done, total uint64) {
		t(sandbox.TemplateProgress{Stage: s, Done: int64(done), Total: int64(total)})
	}
}

// warmUp runs a program that makes a sandbox what a template is to be.
func warmUp(ctx context.Context, s *Sandbox, cmd sandbox.Cmd) error {
	said := tail.New(4 << 10)
	cmd.Stdout, cmd.Stderr = both(cmd.Stdout, said), both(cmd.Stderr, said)
	exit, err := s.Exec(ctx, cmd)
	if err != nil {
		return err
	}
	if exit.Success() {
		return nil
	}
	lines := said.Lines()
	return &sandbox.Error{Op: "warm up template", System: System, Err: sandbox.ErrInvalid,
		Detail: fmt.Sprintf("%q ended with %v: %s", cmd.Args, exit, tail.Join(lines[max(0, len(lines)-4):])),
		Remedy: "each program of a warm-up has to end with status 0"}
}

func both(w io.Writer, t *tail.Tail) io.Writer {
	if w == nil {
		return t
	}
	return io.MultiWriter(w, t)
}

// Templates is sandbox.Templater's.
func (d *Driver) Templates(ctx context.Context) ([]sandbox.Template, error) {
	store, err := openTemplates()
	if err != nil {
		return nil, keptError(ctx, "list templates", err)
	}
	list, err := store.list(ctx)
	if err != nil {
		return nil, keptError(ctx, "list templates", err)
	}
	return list, nil
}

// ForkTemplate is sandbox.Templater's.
func (d *Driver) ForkTemplate(ctx context.Context, name string, n int) ([]sandbox.Sandbox, error) {
	const op = "fork template"
	if err := checkTemplateName(op, name); err != nil {
		return nil, err
	}
	if n < 1 || n > MaxForks {
		return nil, &sandbox.Error{Op: op, System: System, Err: sandbox.ErrInvalid,
			Detail: fmt.Sprintf("%d copies", n), Remedy: fmt.Sprintf("ask for 1 to %d at a time", MaxForks)}
	}
	store, err := openTemplates()
	if err != nil {
		return nil, keptError(ctx, op, err)
	}
	t, dir, f, err := store.open(ctx, op, name)
	if err != nil {
		return nil, keptError(ctx, op, err)
	}
	if err := needKVM(ctx, op); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	list := d.parkedCopies(ctx, op, t.Digest, n)
	d.parked.want(t.Digest, func(ctx context.Context) { d.fillParked(ctx, name, t.Digest) })
	if len(list) == n {
		return list, f.Close()
	}
	o, err := d.open(ctx, dir, f, t.Spec)
	if err != nil {
		return nil, keptError(ctx, op, errors.Join(err, closeSandboxes(list)))
	}
	more, err := o.copies(ctx, op, n-len(list))
	list = append(list, more...)
	if err = errors.Join(err, o.close()); err != nil {
		return nil, keptError(ctx, op, errors.Join(err, closeSandboxes(list)))
	}
	return list, nil
}

// RemoveTemplate is sandbox.Templater's.
func (d *Driver) RemoveTemplate(ctx context.Context, name string) error {
	const op = "remove template"
	if err := checkTemplateName(op, name); err != nil {
		return err
	}
	store, err := openTemplates()
	if err != nil {
		return keptError(ctx, op, err)
	}
	if err := store.remove(ctx, op, name); err != nil {
		return keptError(ctx, op, err)
	}
	d.parked.forget()
	return nil
}

const maxTemplateName = 64

func checkTemplateName(op, name string) error {
	const first = "abcdefghijklmnopqrstuvwxyz0123456789"
	if name != "" && len(name) <= maxTemplateName && strings.IndexByte(first, name[0]) >= 0 &&
		len(bytes.Trim([]byte(name), first+"._-")) == 0 {
		return nil
	}
	return &sandbox.Error{Op: op, System: System, Err: sandbox.ErrInvalid, Detail: fmt.Sprintf("the name is %.80q", name),
		Remedy: fmt.Sprintf("it must be 1 to %d lower-case letters, digits, '.', '_' and '-', and begin with a letter or digit", maxTemplateName)}
}
