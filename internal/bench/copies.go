package bench

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// singles is how many copies are made one after the other.
const singles = 3

// stepCopies times copies of a running sandbox, and copies of a template, where a system has one or the other: one at a time,
// and ten at once. In both Python runs, as in what is saved.
func stepCopies(ctx context.Context, s *session) error {
	sb, err := s.create(ctx)
	if err != nil {
		return err
	}
	forker, forks := sb.(sandbox.Forker)
	templater, keeps := s.driver.(sandbox.Templater)
	if !forks && !keeps {
		return lacks("a sandbox cannot be copied while it runs, and there are no templates")
	}
	if forks {
		if _, err := startWorkload(ctx, sb); err != nil {
			return err
		}
		// The first copy pays for all that the guest has written since it booted.
		if err := s.copies(ctx, "snapshot.live.first", 1, forker.Fork); err != nil {
			return err
		}
		if err := s.copied(ctx, "snapshot.live", forker.Fork); err != nil {
			return err
		}
	}
	if err := sb.Close(); err != nil || !keeps {
		return err
	}
	return s.template(ctx, templater)
}

// template makes a template, copies it and removes it.
func (s *session) template(ctx context.Context, t sandbox.Templater) (err error) {
	spec := sandbox.TemplateSpec{Name: "bench-" + lease.NewID(), Spec: s.spec,
		WarmUp: []sandbox.Cmd{{Args: []string{"python3", "-c", "import json"}}}}
	// The next bench removes it if this process is killed.
	forget, err := s.scratch.rememberTemplate(sandbox.Template{System: s.driver.System(), Name: spec.Name})
	if err != nil {
		return err
	}
	start := time.Now()
	made, err := t.CreateTemplate(ctx, spec)
	if err != nil {
		return fmt.Errorf("create a template: %w", err)
	}
	s.since("snapshot.template.create", start)
	s.value("snapshot.template.disk", float64(made.Bytes)/mib, "mib")
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
		defer cancel()
		rmErr := t.RemoveTemplate(clean, spec.Name)
		if rmErr == nil {
			rmErr = forget()
		}
		if rmErr != nil && err == nil {
			err = fmt.Errorf("remove the template: %w", rmErr)
		}
	}()
	return s.copied(ctx, "snapshot.template", func(ctx context.Context, n int) ([]sandbox.Sandbox, error) {
		return t.ForkTemplate(ctx, spec.Name, n)
	})
}

// copied times copies that make makes.
func (s *session) copied(ctx context.Context, name string, make func(context.Context, int) ([]sandbox.Sandbox, error)) error {
	for range singles {
		if err := s.copies(ctx, name+".fork1", 1, make); err != nil {
			return err
		}
	}
	return s.copies(ctx, name+".fork10", forks, make)
}

// copies times n copies from the call to the first exec reply of each, and closes them.
func (s *session) copies(ctx context.Context, name string, n int, make func(context.Context, int) ([]sandbox.Sandbox, error)) error {
	start := time.Now()
	list, err := make(ctx, n)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	if err := each(list, s.own); err != nil {
		return err // what is not owned was closed
	}
	if err := each(list, func(c sandbox.Sandbox) error {
		_, err := run(ctx, c, "true")
		return err
	}); err != nil {
		return fmt.Errorf("after the copy: %w", err)
	}
	s.since(name, start)
	return each(list, sandbox.Sandbox.Close)
}

// each does f to all at once, and returns the first error in their order.
func each(list []sandbox.Sandbox, f func(sandbox.Sandbox) error) error {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, c := range list {
		wg.Go(func() { errs[i] = f(c) })
	}
	wg.Wait()
	return cmp.Or(errs...)
}
