package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/aethervm/aether/internal/repeat"
	"github.com/aethervm/aether/sandbox"
)

// Bounds of a warm-up.
const (
	maxWarmUps    = 64
	maxWarmUpSize = 64 << 10
)

// CreateTemplate makes a template, which is the tenant's and stays until it is removed. While it is made it counts as a sandbox
// of the session. On error nothing of it is left, but for what cannot be removed yet, and an older one of the name stays.
func (s *Session) CreateTemplate(ctx context.Context, req TemplateRequest) (info TemplateInfo, err error) {
	ctx, c, err := s.call(ctx, "create template", "", CanFork)
	c.note("name", req.Name)
	c.note("image", req.Image)
	c.note("system", req.System)
	c.note("warm_up", strings.Join(req.WarmUp, "; "))
	defer c.end(&err)
	if err != nil {
		return info, err
	}
	if !s.can(CanExec) {
		return info, refuse(CodeDenied, c.op, "ask whoever opened the session for it", "this session has no capability %q", CanExec)
	}
	if err := req.check(c.op); err != nil {
		return info, err
	}
	if s.r.scratch != nil {
		return info, refuse(CodeUnsupported, c.op, "make it with `aether template create`, or have a server make it: `aether serve`",
			"this runtime keeps nothing beyond its own end")
	}
	return do(ctx, c, req.Key, req, true, func() (TemplateInfo, error) {
		t, err := s.makeTemplate(ctx, c, req)
		if err != nil {
			return TemplateInfo{}, err
		}
		c.note("template", t.ID)
		return t.info(s.tenant.ID), nil
	})
}

func (req TemplateRequest) check(op string) error {
	size := 0
	for _, line := range req.WarmUp {
		size += len(line)
		if line == "" {
			return refuse(CodeInvalid, op, "leave it out", "a command of the warm-up is empty")
		}
	}
	switch {
	case !templateNameRE.MatchString(req.Name):
		return refuse(CodeInvalid, op, "use 1 to 64 lower-case letters, digits, '.', '_' and '-', and begin with a letter or a digit", "the name is %q", clip(req.Name, 80))
	case ReservedTemplateName(req.Name):
		return refuse(CodeInvalid, op, "choose another name", "the name %q looks like the ID of a template", req.Name)
	case len(req.WarmUp) > maxWarmUps || size > maxWarmUpSize:
		return refuse(CodeInvalid, op, fmt.Sprintf("use at most %d, of %d bytes together; a script is written to a file by one, and run by the next", maxWarmUps, maxWarmUpSize),
			"the commands of the warm-up are too many or too long")
	}
	return nil
}

// makeTemplate has a driver make a template, and gives it its name.
func (s *Session) makeTemplate(ctx context.Context, c *call, req TemplateRequest) (*template, error) {
	spec := SandboxSpec{System: req.System, Image: req.Image, VCPUs: req.VCPUs, MemoryMiB: req.MemoryMiB, Processes: req.Processes,
		Network: req.Network, Egress: req.Egress, Env: req.Env}
	if err := errors.Join(s.allow(c.op, spec), s.affordable(c.op)); err != nil {
		return nil, err
	}
	by, keeper, err := s.r.templater(ctx, c.op, spec.System)
	if err != nil {
		return nil, err
	}
	spec = s.r.complete(spec)
	want, image, err := s.r.resolve(ctx, c.op, &spec)
	if err != nil {
		return nil, err
	}
	if want, err = want.WithDefaults(); err != nil {
		image.release()
		return nil, err
	}
	kept, err := s.keep(c.op, Templates, want.MemoryMiB)
	if err != nil {
		image.release()
		return nil, err
	}
	memory := int64(want.MemoryMiB)
	if no := s.ledger.reserve(1, memory); no != nil {
		kept.release()
		image.release()
		return nil, no.err(c.op, s.nextReap())
	}
	id := newID(prefixTemplate)
	made, err := s.haveTemplate(ctx, c.op, keeper, by, sandbox.TemplateSpec{Name: s.r.owner + "." + id, Spec: want}, req)
	s.ledger.release(1, memory)
	if err != nil {
		kept.release()
		image.release()
		return nil, err
	}
	made.Spec.Image = want.Image // also where a driver does not keep where it lies
	t := &template{image: image, kept: kept, templateRecord: templateRecord{TemplateInfo: infoOf(made), Tenant: s.tenant.ID, Kept: made}}
	t.ID, t.Name, t.Image, t.WarmUp = id, req.Name, spec.Image, req.WarmUp
	if err = kept.settle(c.op, made.Bytes, nil); err == nil {
		err = s.r.publish(ctx, t)
	}
	if err != nil {
		s.r.discardOrLeave(ctx, t)
		return nil, err
	}
	s.tell(Event{Type: EventTemplateCreated, Template: id})
	return t, nil
}

// templater chooses the best system that keeps templates.
func (r *Runtime) templater(ctx context.Context, op, system string) (by candidate, keeper sandbox.Templater, err error) {
	var passed []string
	err = r.systems.candidates(ctx, op, system, func(can candidate) bool {
		if k, ok := can.driver.(sandbox.Templater); ok {
			by, keeper = can, k
			return false
		}
		passed = append(passed, can.driver.System())
		return true
	})
	if err == nil && keeper == nil {
		err = refuse(CodeUnsupported, op, "ask for aethervm where `aether doctor` finds it; with others, make a sandbox ready and snapshot it, and restore that",
			"no templates here: %s cannot keep them", strings.Join(passed, ", "))
	}
	return by, keeper, err
}

// haveTemplate has a driver make a template, and charges for the sandbox that it makes for that.
func (s *Session) haveTemplate(ctx context.Context, op string, keeper sandbox.Templater, by candidate, spec sandbox.TemplateSpec, req TemplateRequest) (sandbox.Template, error) {
	ctx, t, paid := s.toll(ctx, op, spec.Spec.VCPUs)
	defer paid()
	spec.Progress = func(p sandbox.TemplateProgress) {
		t.stage(p.Stage)
		if req.Progress != nil {
			req.Progress(p)
		}
	}
	for _, line := range req.WarmUp {
		spec.WarmUp = append(spec.WarmUp, sandbox.Cmd{Args: []string{"/bin/sh", "-c", line},
			Stdout: tollWriter{t, req.Stdout}, Stderr: tollWriter{t, req.Stderr}})
	}
	done := s.r.drive(ctx, by.driver.System(), "create template")
	made, err := keeper.CreateTemplate(ctx, spec)
	if done(&err); err != nil {
		if errors.Is(err, sandbox.ErrUnavailable) {
			by.forget()
		}
		if why, ok := errors.AsType[*Error](context.Cause(ctx)); ok { // a budget, or the end of the session
			return made, why
		}
		return made, err
	}
	return made, nil
}

// toll charges a session for a sandbox that a driver makes for itself: for the time that it takes, for what its programs write,
// and for all the vCPU time that it may have used, as nobody but the driver can ask it. What is used up cancels it.
type toll struct {
	s      *Session
	vcpus  int64
	cancel func() // if something is used up

	mu   sync.Mutex
	at   time.Time // up to which it was charged for
	runs bool      // its vCPUs do, or those of the copy that is made for trial
}

// toll begins to charge for a sandbox of so many vCPUs. What is used up ends the context that is returned; paid charges for the rest,
// and must be called.
func (s *Session) toll(ctx context.Context, op string, vcpus int) (_ context.Context, t *toll, paid func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	t = &toll{s: s, vcpus: int64(vcpus), at: time.Now(), runs: true, cancel: func() {
		if no := s.ledger.exhausted(); no != nil {
			cancel(no.err(op, nil))
		}
	}}
	stop := t.watch()
	return ctx, t, func() {
		stop()
		cancel(nil)
	}
}

// watch charges now and then until the function that it returns is called, which charges for the rest.
func (t *toll) watch() (stop func()) {
	end := repeat.Every(tick, func() bool {
		t.charge()
		t.cancel()
		return true
	})
	return func() {
		end()
		t.charge()
	}
}

func (t *toll) charge() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.chargeLocked()
}

func (t *toll) chargeLocked() {
	now := time.Now()
	spent := int64(now.Sub(t.at))
	t.at = now
	t.s.ledger.spend(SandboxSeconds, spent)
	if t.runs {
		t.s.ledger.spend(VCPUSeconds, spent*t.vcpus)
	}
}

// stage notes what is going on from now on.
func (t *toll) stage(s sandbox.TemplateStage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.chargeLocked()
	t.runs = s != sandbox.TemplateWrite && s != sandbox.TemplateFinish
}

// tollWriter charges for what a program writes.
type tollWriter struct {
	t  *toll
	to io.Writer // may be nil
}

func (w tollWriter) Write(p []byte) (int, error) {
	w.t.s.r.written.Add(int64(len(p)))
	w.t.s.ledger.spend(OutputBytes, int64(len(p)))
	if w.to == nil {
		return len(p), nil
	}
	return w.to.Write(p)
}

// publish puts a template into the list, in place of the one of the tenant that has had its name, and removes that.
func (r *Runtime) publish(ctx context.Context, t *template) error {
	old, err := r.name(t)
	if err != nil || old == nil {
		return err
	}
	r.pool.forget(old.ID)
	r.discardOrLeave(ctx, old)
	r.events.add(t.Tenant, Event{Type: EventTemplateRemoved, Template: old.ID})
	return nil
}

// name puts a template into the list, and takes the one of the tenant that has had its name out of it; nil is none.
func (r *Runtime) name(t *template) (old *template, err error) {
	r.naming.Lock()
	defer r.naming.Unlock()
	for _, other := range r.templatesOf(t.Tenant) {
		if other.Name == t.Name {
			old = other
		}
	}
	err = r.store.update(func(tx *bbolt.Tx) error {
		if old != nil {
			if err := tx.Bucket([]byte(bucketTemplates)).Delete([]byte(old.ID)); err != nil {
				return err
			}
		}
		return putIn(tx, bucketTemplates, t.ID, t.templateRecord)
	})
	if err != nil {
		return nil, fmt.Errorf("store a template: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.templates[t.ID] = t
	if old != nil {
		delete(r.templates, old.ID)
	}
	return old, nil
}
