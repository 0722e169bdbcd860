package runtimetest

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// Keeper is a Driver that keeps templates: as long as it is there, as the disk would for one process after the other.
type Keeper struct {
	*Driver
	// OnStage, if not nil, is called at the beginning of each stage, and may fail it.
	OnStage func(ctx context.Context, stage sandbox.TemplateStage) error
	// OnFork may fail it; n is the number of the call, from 1 on.
	OnFork func(n int) error
	// OnRemove may fail it.
	OnRemove func(name string) error
	// Hidden are the names of those that Templates and ForkTemplate do not find, as if they could not be read.
	Hidden []string

	mu    sync.Mutex
	kept  map[string]keptTemplate
	made  int
	forks int
}

type keptTemplate struct {
	sandbox.Template
	state *state
}

// NewKeeper gives a driver templates.
func NewKeeper(d *Driver) *Keeper { return &Keeper{Driver: d, kept: map[string]keptTemplate{}} }

// CreateTemplate is sandbox.Templater's.
func (k *Keeper) CreateTemplate(ctx context.Context, spec sandbox.TemplateSpec) (_ sandbox.Template, err error) {
	stage := func(p sandbox.TemplateProgress) error {
		if spec.Progress != nil {
			spec.Progress(p)
		}
		if k.OnStage != nil {
			return k.OnStage(ctx, p.Stage)
		}
		return nil
	}
	if err := stage(sandbox.TemplateProgress{Stage: sandbox.TemplateBoot}); err != nil {
		return sandbox.Template{}, err
	}
	made, err := k.Create(ctx, spec.Spec)
	if err != nil {
		return sandbox.Template{}, err
	}
	defer func() { _ = made.Close() }()
	t := sandbox.Template{System: k.Name, Name: spec.Name, Bytes: 1 << 20, Created: time.Now().UTC(), Spec: spec.Spec}
	for i, cmd := range spec.WarmUp {
		if err := stage(sandbox.TemplateProgress{Stage: sandbox.TemplateWarmUp, Program: i}); err != nil {
			return sandbox.Template{}, err
		}
		exit, err := made.Exec(ctx, cmd)
		if err != nil {
			return sandbox.Template{}, err
		}
		if !exit.Success() {
			return sandbox.Template{}, &sandbox.Error{Op: "warm up template", System: k.Name, Err: sandbox.ErrInvalid,
				Detail: fmt.Sprintf("%q ended with %v", cmd.Args, exit), Remedy: "each has to end with status 0"}
		}
		t.WarmUp = append(t.WarmUp, cmd.Args)
	}
	for _, s := range []sandbox.TemplateStage{sandbox.TemplateFreeze, sandbox.TemplateWrite, sandbox.TemplateTrial, sandbox.TemplateFinish} {
		if err := stage(sandbox.TemplateProgress{Stage: s}); err != nil {
			return sandbox.Template{}, err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.made++
	t.Digest = fmt.Sprintf("sha256:%064x", k.made)
	k.kept[spec.Name] = keptTemplate{t, made.(interface{ self() *box }).self().copyState(sandbox.SnapshotFull)}
	return t, ctx.Err()
}

// Templates is sandbox.Templater's.
func (k *Keeper) Templates(context.Context) ([]sandbox.Template, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := []sandbox.Template{}
	for name, t := range k.kept {
		if slices.Contains(k.Hidden, name) {
			continue
		}
		list = append(list, t.Template)
	}
	slices.SortFunc(list, func(a, b sandbox.Template) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// ForkTemplate is sandbox.Templater's.
func (k *Keeper) ForkTemplate(ctx context.Context, name string, n int) ([]sandbox.Sandbox, error) {
	k.mu.Lock()
	t, ok := k.kept[name]
	ok = ok && !slices.Contains(k.Hidden, name)
	if ok && k.OnFork != nil {
		k.forks++
		if err := k.OnFork(k.forks); err != nil {
			k.mu.Unlock()
			return nil, err
		}
	}
	k.mu.Unlock()
	if !ok {
		return nil, &sandbox.Error{Op: "fork template", System: k.Name, Err: fs.ErrNotExist, Detail: "there is no template " + name}
	}
	var list []sandbox.Sandbox
	for range n {
		list = append(list, k.start(t.state.clone(), nil))
	}
	return list, ctx.Err()
}

// RemoveTemplate is sandbox.Templater's.
func (k *Keeper) RemoveTemplate(_ context.Context, name string) error {
	if k.OnRemove != nil {
		if err := k.OnRemove(name); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.kept[name]; !ok {
		return &sandbox.Error{Op: "remove template", System: k.Name, Err: fs.ErrNotExist, Detail: "there is no template " + name}
	}
	delete(k.kept, name)
	return nil
}

// Kept are the names of the templates that there are.
func (k *Keeper) Kept() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.kept))
}
