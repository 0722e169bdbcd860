package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aethervm/aether/internal/egress/inject"
	"github.com/aethervm/aether/sandbox"
)

// Bounds of labels and names.
const (
	maxLabels     = 16
	maxLabelKey   = 64
	maxLabelValue = 256
	maxName       = 64
)

// Create makes a sandbox.
func (s *Session) Create(ctx context.Context, req CreateRequest) (info SandboxInfo, err error) {
	ctx, c, err := s.call(ctx, "create", "", CanExec)
	c.note("image", req.Image)
	c.note("system", req.System)
	defer c.end(&err)
	if err != nil {
		return info, err
	}
	return do(ctx, c, req.Key, req.SandboxSpec, false, func() (SandboxInfo, error) {
		b, err := s.create(ctx, c, req.SandboxSpec, false)
		if err != nil {
			return SandboxInfo{}, err
		}
		c.sandbox = b.id
		c.note("system", b.driver.System())
		return b.info(), nil
	})
}

// create makes a sandbox for an operation.
func (s *Session) create(ctx context.Context, c *call, spec SandboxSpec, ephemeral bool) (_ *box, err error) {
	if spec.Template != "" {
		return s.createCopy(ctx, c, spec, ephemeral)
	}
	if err := s.allow(c.op, spec); err != nil {
		return nil, err
	}
	if err := s.affordable(c.op); err != nil {
		return nil, err
	}
	spec = s.r.complete(spec)
	if err := s.r.allowSecrets(c.op, &spec); err != nil {
		return nil, err
	}
	want, hold, err := s.r.resolve(ctx, c.op, &spec)
	if err != nil {
		return nil, err
	}
	injector, err := s.r.injector(c.op, spec)
	if injector != nil {
		want.Outside, want.Env = injector, append(inject.Environment(), spec.Env...)
		defer func() {
			if err != nil {
				err = errors.Join(err, injector.Close())
			}
		}()
	}
	if err == nil {
		want, err = want.WithDefaults()
	}
	if err != nil {
		hold.release()
		return nil, err
	}
	spec.VCPUs, spec.MemoryMiB, spec.Processes, spec.Network = want.VCPUs, want.MemoryMiB, want.Processes, want.Network
	memory := int64(spec.MemoryMiB)
	if no := s.ledger.reserve(1, memory); no != nil {
		hold.release()
		return nil, no.err(c.op, s.nextReap())
	}
	sb, by, err := s.r.obtain(ctx, c, order{tenant: s.tenant.ID, system: spec.System, spec: want}, &hold)
	if err == nil && injector != nil {
		if err = trust(ctx, sb, injector); err != nil {
			err = errors.Join(err, sb.Close())
		}
	}
	if err != nil {
		s.ledger.release(1, memory)
		hold.release()
		return nil, err
	}
	b := &box{driver: by.driver, spec: spec, why: s.r.scrub(by.why), image: hold, digest: want.Image.Digest, ephemeral: ephemeral}
	if err := s.register(b, sb); err != nil {
		return nil, err
	}
	return b, nil
}

// resolve finds the image of a spec, and has its network be within what the operator allows. The caller releases the hold.
func (r *Runtime) resolve(ctx context.Context, op string, spec *SandboxSpec) (sandbox.Spec, *hold, error) {
	if err := r.limitEgress(op, spec); err != nil {
		return sandbox.Spec{}, nil, err
	}
	img, release, err := r.cfg.Images.Resolve(ctx, spec.Image)
	if err != nil {
		return sandbox.Spec{}, nil, err
	}
	return sandbox.Spec{Image: img, VCPUs: spec.VCPUs, MemoryMiB: spec.MemoryMiB, Processes: spec.Processes,
		Network: spec.Network, Egress: spec.Egress, Env: spec.Env}, newHold(release), nil
}

// obtain gets a sandbox from the pool, with the pool's hold of the image in place of the caller's, or makes one.
func (r *Runtime) obtain(ctx context.Context, c *call, o order, image **hold) (sandbox.Sandbox, candidate, error) {
	if o.spec.Outside != nil { // nobody else's would do
		return r.build(ctx, c.op, o)
	}
	if s := r.pool.take(o); s != nil {
		c.note("ready", "true")
		(*image).release()
		*image = s.image
		return s.sb, s.by, nil
	}
	start := time.Now()
	sb, by, err := r.build(ctx, c.op, o)
	if err == nil {
		r.pool.took(o, time.Since(start))
	}
	return sb, by, err
}

// order is what a driver is to make for a tenant: a sandbox of a spec or, if there is a template, a copy of that, whose spec it
// is.
type order struct {
	tenant   string // its ID
	system   string // as asked for
	template *template
	spec     sandbox.Spec
}

// build has the best system that can do it make a sandbox.
func (r *Runtime) build(ctx context.Context, op string, o order) (sb sandbox.Sandbox, by candidate, err error) {
	if o.template != nil {
		return r.copyTemplate(ctx, op, o.template)
	}
	chooseErr := r.systems.candidates(ctx, op, o.system, func(can candidate) bool {
		by = can
		done := r.drive(ctx, can.driver.System(), "create")
		sb, err = can.driver.Create(ctx, o.spec)
		done(&err)
		if errors.Is(err, sandbox.ErrUnavailable) {
			can.forget()
		}
		// What cannot be done here may be done by the next one, if there is a choice.
		return errors.Is(err, sandbox.ErrUnsupported) || errors.Is(err, sandbox.ErrUnavailable)
	})
	if chooseErr != nil {
		return nil, by, errors.Join(chooseErr, err)
	}
	return sb, by, err
}

// allow refuses what a session may not ask for, and what never can be.
func (s *Session) allow(op string, spec SandboxSpec) error {
	if asks := spec.Network != "" && spec.Network != sandbox.NetworkNone || len(spec.Egress) > 0 || len(spec.Secrets) > 0; asks && !s.can(CanNetwork) {
		return refuse(CodeDenied, op, "leave the network out, or ask whoever opened the session for it", "this session has no capability %q", CanNetwork)
	}
	if spec.TTL < 0 {
		return refuse(CodeInvalid, op, "give zero for no end", "the time to live is negative")
	}
	return checkLabels(op, spec.Labels)
}

func (s *Session) can(c Capability) bool {
	for _, have := range s.capabilities {
		if have == c {
			return true
		}
	}
	return false
}

func checkLabels(op string, labels map[string]string) error {
	bad := len(labels) > maxLabels
	for k, v := range labels {
		bad = bad || k == "" || len(k) > maxLabelKey || len(v) > maxLabelValue
	}
	if bad {
		return refuse(CodeInvalid, op, fmt.Sprintf("use at most %d, of at most %d bytes a key and %d a value", maxLabels, maxLabelKey, maxLabelValue),
			"the labels are too many or too long")
	}
	return nil
}

// complete fills in what the runtime has defaults for.
func (r *Runtime) complete(spec SandboxSpec) SandboxSpec {
	set(&spec.Image, r.cfg.DefaultImage)
	if spec.Network == "" && len(spec.Egress) > 0 {
		spec.Network = sandbox.NetworkOutbound
	}
	spec.Idle = spec.Idle.over(r.limits.Idle)
	return spec
}

// target finds the sandbox of an operation, or makes an ephemeral one. done is called when the
// operation is over, and kills an ephemeral one.
func (s *Session) target(ctx context.Context, c *call, id string, spec SandboxSpec) (b *box, done func(*error), err error) {
	if id != "" {
		b, err = s.box(c.op, id)
		return b, func(*error) {}, err
	}
	if b, err = s.create(ctx, c, spec, true); err != nil {
		return nil, nil, err
	}
	c.sandbox = b.id
	c.note("ephemeral", "true")
	return b, func(err *error) { *err = errors.Join(*err, c.kill(b, ended())) }, nil
}

// ended is why an ephemeral sandbox is gone.
func ended() *Error {
	return refuse(CodeGone, "", "create a sandbox to keep one", "the sandbox was made for one call, which is over")
}

// Inspect describes a sandbox.
func (s *Session) Inspect(ctx context.Context, sandboxID string) (info SandboxInfo, err error) {
	_, c, err := s.call(ctx, "inspect", sandboxID, CanRead)
	c.quiet = true
	defer c.end(&err)
	if err != nil {
		return info, err
	}
	b, err := s.box(c.op, sandboxID)
	if err != nil {
		return info, err
	}
	return b.info(), nil
}

// EgressLog tells which flows of a sandbox were refused, where its system keeps a record, and what its secrets were used
// for. To look keeps it from nothing: it counts for no activity, and does not let a paused sandbox go on.
func (s *Session) EgressLog(ctx context.Context, sandboxID string) (log sandbox.EgressLog, err error) {
	ctx, c, err := s.call(ctx, "egress log", sandboxID, CanRead)
	c.quiet = true
	defer c.end(&err)
	if err != nil {
		return log, err
	}
	b, err := s.box(c.op, sandboxID)
	if err != nil {
		return log, err
	}
	b.mu.Lock()
	sb := b.sb
	b.mu.Unlock()
	logger, ok := sb.(sandbox.EgressLogger)
	if !ok {
		return log, refuse(CodeUnsupported, c.op, "create the sandbox with aethervm", "%s keeps no record of refused flows", b.driver.System())
	}
	done := b.drive(ctx, "egress log")
	log, err = logger.EgressLog(ctx)
	done(&err)
	return log, b.reason(ctx, err)
}

// List tells what the session has, the tenant's snapshots, and the templates that it may copy.
func (s *Session) List(ctx context.Context) (l Listing, err error) {
	ctx, c, err := s.call(ctx, "list", "", CanRead)
	c.quiet = true
	defer c.end(&err)
	if err != nil {
		return l, err
	}
	l = Listing{Sandboxes: []SandboxInfo{}, Processes: s.processInfos(""), Snapshots: s.r.snapshotInfos(s.tenant.ID), Budget: s.Budget()}
	if l.Templates, err = s.r.templateInfos(ctx, s.tenant); err != nil {
		return Listing{}, err
	}
	for _, b := range s.list() {
		l.Sandboxes = append(l.Sandboxes, b.info())
	}
	return l, nil
}

// Kill ends a sandbox and frees what it had. One that the session has had, and that is gone, is no
// error.
func (s *Session) Kill(ctx context.Context, sandboxID string) (err error) {
	_, c, err := s.call(ctx, "kill", sandboxID, CanExec)
	defer c.end(&err)
	if err != nil {
		return err
	}
	b, err := s.box(c.op, sandboxID)
	if CodeOf(err) == CodeGone {
		return nil
	}
	if err != nil {
		return err
	}
	return c.kill(b, refuse(CodeGone, "", "create another sandbox", "it was killed at %s", time.Now().UTC().Format(time.TimeOnly)))
}
