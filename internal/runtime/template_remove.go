package runtime

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// clearEvery is how often it is tried again to remove what a driver could not.
const clearEvery = time.Minute

// RemoveTemplate frees a template, by ID or name. Sandboxes that were made of it live on.
func (s *Session) RemoveTemplate(ctx context.Context, name string) (err error) {
	ctx, c, err := s.call(ctx, "remove template", "", CanFork)
	c.note("template", name)
	defer c.end(&err)
	if err != nil {
		return err
	}
	t, image, err := s.r.findTemplate(ctx, c.op, s.tenant, name)
	if err != nil {
		return err
	}
	image.release()
	if t.host {
		return refuse(CodeDenied, c.op, "`aether template rm "+t.Name+"` removes it", "the template %q is the host's own", t.Name)
	}
	if t.Tenant != s.tenant.ID {
		return refuse(CodeDenied, c.op, "ask whoever runs aether", "the template %q is shared, and belongs to another tenant", t.Name)
	}
	return s.r.removeTemplate(ctx, t.ID)
}

func (r *Runtime) removeTemplate(ctx context.Context, id string) error {
	t, err := r.withdraw(id)
	if err != nil || t == nil { // somebody else is at it
		return err
	}
	r.pool.forget(id)
	// Whoever asked may be gone: what is removed by half could not be copied, but would be there.
	if err := r.discardTemplate(context.WithoutCancel(ctx), t); err != nil {
		if err := r.putBack(t, err); err != nil {
			return err
		}
	}
	r.events.add(t.Tenant, Event{Type: EventTemplateRemoved, Template: id})
	return nil
}

// withdraw takes a template out of the list; nil is one that is not in it. The record goes first: what has none, the next
// process removes, should this one be killed in between.
func (r *Runtime) withdraw(id string) (*template, error) {
	r.naming.Lock()
	defer r.naming.Unlock()
	r.mu.Lock()
	t := r.templates[id]
	delete(r.templates, id)
	r.mu.Unlock()
	if t == nil {
		return nil, nil
	}
	if err := r.store.remove(bucketTemplates, id); err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.templates[id] = t
		return nil, err
	}
	return t, nil
}

// putBack gives what is left of a template its place in the list, so that its removal, which met err, can be tried again. If a
// new one has its name meanwhile, the runtime does that by itself, and it is as good as removed: the error is nil.
func (r *Runtime) putBack(t *template, err error) error {
	r.naming.Lock()
	defer r.naming.Unlock()
	for _, other := range r.templatesOf(t.Tenant) {
		if other.Name == t.Name {
			r.leave(t, err)
			return nil
		}
	}
	left := t.with(func(c *template) {
		c.image = nil
		c.Shared = c.Shared && r.canShare("", c) == nil
	})
	err = errors.Join(err, r.store.put(bucketTemplates, t.ID, left.templateRecord))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.templates[t.ID] = left
	return err
}

// discardOrLeave frees what a template holds, which is in no list, now or later, also if whoever asked is gone.
func (r *Runtime) discardOrLeave(ctx context.Context, t *template) {
	if err := r.discardTemplate(context.WithoutCancel(ctx), t); err != nil {
		r.leave(t, err)
	}
}

// leave has what is left of a template, which is in no list, be removed later.
func (r *Runtime) leave(t *template, err error) {
	r.log.Error("could not remove what is left of a template that was replaced, or is not whole; it is tried again", "template", t.ID, "error", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remains[t.ID] = t.with(func(c *template) { c.image = nil })
}

// clear tries to remove what is left of templates until the runtime closes. What is left then, the next process removes.
func (r *Runtime) clear() {
	ticker := time.NewTicker(clearEvery)
	defer ticker.Stop()
	for {
		select {
		case <-r.closing.Done():
			return
		case <-ticker.C:
		}
		r.mu.Lock()
		list := make([]*template, 0, len(r.remains))
		for _, t := range r.remains {
			list = append(list, t)
		}
		r.mu.Unlock()
		for _, t := range list {
			ctx, cancel := context.WithTimeout(r.closing, reapTimeout)
			err := r.discardTemplate(ctx, t)
			cancel()
			if err != nil {
				r.log.Warn("could not remove what is left of a template", "template", t.ID, "error", err)
				continue
			}
			r.mu.Lock()
			delete(r.remains, t.ID)
			r.mu.Unlock()
		}
	}
}

// discardTemplate frees what a template holds, which is in no list any more.
func (r *Runtime) discardTemplate(ctx context.Context, t *template) error {
	defer t.image.release()
	if p := r.systems.drivers[t.System]; p != nil { // else the next process that has it removes what is in no record
		if keeper, ok := p.driver.(sandbox.Templater); ok {
			done := r.drive(ctx, t.System, "remove template")
			err := keeper.RemoveTemplate(ctx, t.Kept.Name)
			if done(&err); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	t.kept.release()
	return nil
}
