package runtime

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

// createCopy makes a sandbox that goes on from where a template is.
func (s *Session) createCopy(ctx context.Context, c *call, asked SandboxSpec, ephemeral bool) (*box, error) {
	c.note("template", asked.Template)
	t, image, err := s.r.findTemplate(ctx, c.op, s.tenant, asked.Template)
	if err != nil {
		return nil, err
	}
	b, err := s.copyOf(ctx, c, t, image, asked, ephemeral)
	if CodeOf(err) != CodeNotFound {
		return b, err
	}
	// It may have been replaced since it was found: then what has its name now is meant.
	now, image, findErr := s.r.findTemplate(ctx, c.op, s.tenant, asked.Template)
	if findErr != nil {
		return nil, err
	}
	if now.ID == t.ID {
		image.release()
		return nil, err
	}
	return s.copyOf(ctx, c, now, image, asked, ephemeral)
}

// copyOf is createCopy of a template that is found; image is its share of the image, and is released.
func (s *Session) copyOf(ctx context.Context, c *call, t *template, image *hold, asked SandboxSpec, ephemeral bool) (*box, error) {
	taken := false
	defer func() {
		if !taken {
			image.release()
		}
	}()
	spec, err := t.specFor(c.op, asked)
	if err != nil {
		return nil, err
	}
	spec = s.r.complete(spec)
	if err := errors.Join(s.allow(c.op, spec), s.r.limitKept(c.op, "template", t.Kept.Spec, spec), s.affordable(c.op)); err != nil {
		return nil, err
	}
	if image == nil {
		return nil, refuse(CodeNotFound, c.op, "build it again with `aether image build`", "the image of the template, %s, is not there any more", t.Kept.Spec.Image.Digest)
	}
	memory := int64(spec.MemoryMiB)
	if no := s.ledger.reserve(1, memory); no != nil {
		return nil, no.err(c.op, s.nextReap())
	}
	sb, by, err := s.r.obtain(ctx, c, order{tenant: s.tenant.ID, system: t.System, template: t, spec: t.Kept.Spec}, &image)
	if err != nil {
		s.ledger.release(1, memory)
		return nil, err
	}
	taken = true // the box releases it
	b := &box{driver: by.driver, spec: spec, why: by.why, template: t.ID, image: image, digest: t.Kept.Spec.Image.Digest, ephemeral: ephemeral}
	if err := s.register(b, sb); err != nil {
		return nil, err
	}
	return b, nil
}

// specFor is what a copy of the template is: what a request says of its time to live, idleness and labels, and of the rest what
// the template is.
func (t *template) specFor(op string, asked SandboxSpec) (SandboxSpec, error) {
	if asked.System != "" && !strings.EqualFold(asked.System, auto) && asked.System != t.System {
		return asked, refuse(CodeInvalid, op, "leave the system out", "the template %q is one of %s", t.Name, t.System)
	}
	var more []string
	for _, field := range []struct {
		name  string
		given bool
	}{
		{"image", asked.Image != ""}, {"vcpus", asked.VCPUs != 0}, {"memory", asked.MemoryMiB != 0}, {"processes", asked.Processes != 0},
		{"network", asked.Network != "" && asked.Network != t.Network || len(asked.Egress) > 0}, {"env", len(asked.Env) > 0}, {"secrets", len(asked.Secrets) > 0},
	} {
		if field.given {
			more = append(more, field.name)
		}
	}
	if len(more) > 0 {
		return asked, refuse(CodeInvalid, op, "leave it out, or make another template; a program can be given an environment of its own",
			"a copy of a template is what the template is, and the request names its %s too", strings.Join(more, ", "))
	}
	spec := t.spec()
	spec.TTL, spec.Idle, spec.Labels = asked.TTL, asked.Idle, asked.Labels
	return spec, nil
}

// copyTemplate has the driver make a copy of a template.
func (r *Runtime) copyTemplate(ctx context.Context, op string, t *template) (sandbox.Sandbox, candidate, error) {
	by := candidate{why: "that of the template"}
	if by.probed = r.systems.drivers[t.System]; by.probed == nil {
		return nil, by, refuse(CodeUnavailable, op, "open the runtime with it", "this runtime has no driver for %s", t.System)
	}
	keeper, ok := by.driver.(sandbox.Templater)
	if !ok {
		return nil, by, refuse(CodeUnsupported, op, "use the version of aether that it was made with", "%s has no templates here", t.System)
	}
	if t.unseen {
		if err := r.see(ctx, op, keeper, t); err != nil {
			return nil, by, err
		}
	}
	done := r.drive(ctx, t.System, "fork template")
	list, err := keeper.ForkTemplate(ctx, t.Kept.Name, 1)
	done(&err)
	if errors.Is(err, fs.ErrNotExist) { // the driver's words have the name that it knows
		return nil, by, noTemplate(op, t.Name)
	}
	if err != nil {
		return nil, by, err
	}
	return list[0], by, nil
}

// see looks for a template that its driver did not list before.
func (r *Runtime) see(ctx context.Context, op string, keeper sandbox.Templater, t *template) error {
	list, err := keeper.Templates(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(k sandbox.Template) bool { return k.Name == t.Kept.Name && k.Digest == t.Digest })
	if i < 0 {
		return refuse(CodeNotFound, op, "try it again later, or remove the template and make it again", "the template %q cannot be found, or not be read, by %s", t.Name, t.System)
	}
	r.naming.Lock() // no template is changed meanwhile
	defer r.naming.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.templates[t.ID]; now != nil {
		r.templates[t.ID] = now.with(func(c *template) { c.unseen = false })
	}
	return nil
}
