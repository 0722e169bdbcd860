package agentjobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aethervm/aether/internal/bench/agenthost"
	"github.com/aethervm/aether/internal/runtime"
)

// window is that of the budgets that add up. A sandbox of any system starts well within it.
const window = 20 * time.Second

func budgetJobs() []job {
	return []job{
		{"budget-sandboxes", "one sandbox too many, and too much memory, are refused with what is left; after a kill there is room", jobBudgetKept},
		{"budget-output", "a program that prints too much is ended; when there is more the next one runs", jobBudgetOutput},
		{"budget-time", "work in a sandbox that was alive for too long is ended; when there is more it goes on", jobBudgetTime},
		{"budget-cpu", "a program that computes for too long is ended; when there is more the next one runs", jobBudgetCPU},
	}
}

// within has f work as an agent of a tenant that has a budget, over HTTP.
func (w *worker) within(ctx context.Context, name string, budget runtime.Budget, f func(*worker) error) (err error) {
	tenant, token, err := w.host.Tenant(ctx, name, budget)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearLimit)
		defer cancel()
		err = errors.Join(err, w.host.Runtime.RemoveTenant(ctx, tenant.ID))
	}()
	client, err := w.host.Connect(ctx, token, "agent")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	client.Observe(w.observe)
	return f(&worker{client: client, memory: w.memory, vcpus: w.vcpus, patience: w.patience})
}

func jobBudgetKept(ctx context.Context, w *worker) error {
	// full makes sandboxes until one is refused, makes room for one, and makes that.
	full := func(w *worker, resource runtime.Resource) error {
		var boxes []string
		for {
			box, err := w.box(ctx)
			if err == nil {
				if boxes = append(boxes, box); len(boxes) > 2 {
					return fmt.Errorf("%d sandboxes, and none refused", len(boxes))
				}
				continue
			}
			if err := overBudget(err, resource); err != nil {
				return err
			}
			break
		}
		if len(boxes) != 2 {
			return fmt.Errorf("the budget holds %d sandboxes, not 2", len(boxes))
		}
		if _, err := w.client.Raw(ctx, "kill", args{"sandbox": boxes[0]}); err != nil {
			return err
		}
		box, err := w.box(ctx)
		if err != nil {
			return fmt.Errorf("after a kill: %w", err)
		}
		_, err = w.must(ctx, box, "true")
		return err
	}
	if err := w.within(ctx, "sandboxes", runtime.Budget{Sandboxes: 2}, func(w *worker) error { return full(w, runtime.Sandboxes) }); err != nil {
		return err
	}
	const memory = 128
	return w.within(ctx, "memory", runtime.Budget{MemoryMiB: 2*memory + memory/2}, func(w *worker) error {
		w.memory = memory
		return full(w, runtime.MemoryMiB)
	})
}

// overBudget is nil if err is the refusal of that resource, with how much there is.
func overBudget(err error, resource runtime.Resource) error {
	if err := refused(err, runtime.CodeBudget, "more than the budget"); err != nil {
		return err
	}
	e, _ := errors.AsType[*runtime.Error](err)
	if e.Budget == nil || e.Budget.Resource != resource || e.Budget.Limit == 0 {
		return fmt.Errorf("the refusal does not tell the budget of %s: %+v", resource, e.Budget)
	}
	return nil
}

func jobBudgetOutput(ctx context.Context, w *worker) error {
	return w.within(ctx, "output", runtime.Budget{OutputBytes: 200_000, Window: window}, func(w *worker) error {
		return w.spend(ctx, runtime.OutputBytes, "seq 1 200000")
	})
}

func jobBudgetTime(ctx context.Context, w *worker) error {
	return w.within(ctx, "time", runtime.Budget{SandboxSeconds: 8, Window: window}, func(w *worker) error {
		return w.spend(ctx, runtime.SandboxSeconds, "sleep 60")
	})
}

func jobBudgetCPU(ctx context.Context, w *worker) error {
	return w.within(ctx, "cpu", runtime.Budget{VCPUSeconds: 3, Window: window}, func(w *worker) error {
		return w.spend(ctx, runtime.VCPUSeconds, "while :; do :; done")
	})
}

// spend runs a command that uses a budget up, waits as long as it is told to, and works on.
func (w *worker) spend(ctx context.Context, resource runtime.Resource, command string) error {
	box, err := w.box(ctx)
	if err != nil {
		return err
	}
	res, err := w.run(ctx, box, command, args{"timeout_s": 2 * window.Seconds()})
	if err == nil && res.TimedOut && resource == runtime.VCPUSeconds {
		return cannot("it does not tell the processor's time that a sandbox has used")
	}
	if err == nil {
		return fmt.Errorf("it ended with %s, and not by the budget", ending(res))
	}
	if err := overBudget(err, resource); err != nil {
		return err
	}
	e, _ := errors.AsType[*runtime.Error](err)
	if e.Budget.More == nil {
		return errors.New("the refusal does not tell when there will be more")
	}
	if _, err := w.run(ctx, box, "true", nil); err == nil && time.Until(*e.Budget.More) > 5*time.Second {
		return errors.New("with nothing left the next command runs")
	}
	if !sleep(ctx, time.Until(*e.Budget.More)+100*time.Millisecond) {
		return errors.New("there will be more too late")
	}
	_, err = w.must(ctx, box, "true")
	if runtime.CodeOf(err) == runtime.CodeGone { // the system cannot pause, so it was killed
		if box, err = w.box(ctx); err == nil {
			_, err = w.must(ctx, box, "true")
		}
	}
	if err != nil {
		return fmt.Errorf("when there is more: %w", err)
	}
	_, err = agenthost.Call[runtime.Listing](ctx, w.client, "list", nil)
	return err
}
