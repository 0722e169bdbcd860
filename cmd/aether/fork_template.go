package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/sandbox"
)

// maxForkCopies bounds the copies of one call: what each has written is held until the end.
const maxForkCopies = 10_000

// maxForkOutput is how much is kept of what a program of many copies writes to each of its streams, in bytes.
const maxForkOutput = 64 << 10

// forkTemplate makes copies of a template, runs a program in each and removes them.
func (a *app) forkTemplate(cmd *cobra.Command, name string, program []string, o forkOptions) error {
	if program == nil {
		return usageError("`"+cmd.CommandPath()+" "+name+" -n 3 -- true`; `aether new` makes sandboxes that stay",
			"%s: a command is missing, and without one the copies of a template would be for nobody", cmd.CommandPath())
	}
	if o.key != "" {
		return usageError("leave it out", "%s: --key is for copies of a sandbox, and %q is no sandbox's ID", cmd.CommandPath(), name)
	}
	if o.n > maxForkCopies {
		return usageError(fmt.Sprintf("ask for at most %d", maxForkCopies), "%s: %d copies", cmd.CommandPath(), o.n)
	}
	command := sandbox.Cmd{Args: program, Timeout: o.timeout}
	if err := command.Check(); err != nil {
		return err
	}
	ctx := cmd.Context()
	return a.withTemplates(ctx, o.templateWhere, func(host templateHost) error {
		var results []copyResult
		var err error
		if o.keep {
			results, err = a.copiesKeepingGoing(ctx, host.copies, name, o.n, command)
		} else {
			results, err = a.copiesAllOrNone(ctx, host.copies, name, o.n, command, maxForkOutput)
		}
		if err != nil {
			return err
		}
		if o.asJSON {
			err = a.printJSON(map[string]any{"copies": results})
		} else {
			err = a.tableOfCopies(results)
		}
		return errors.Join(err, outcome(results))
	})
}

// copier makes n sandboxes of a template, all or none.
type copier func(ctx context.Context, name string, n int) ([]templateCopy, error)

// copiesAllOrNone makes all copies before the program runs in any. It keeps limit bytes of each stream.
func (a *app) copiesAllOrNone(ctx context.Context, copies copier, name string, n int, command sandbox.Cmd, limit int) ([]copyResult, error) {
	done := a.tellCopies(name, n)
	defer done.close()
	made, err := copies(ctx, name, n)
	if err != nil {
		return nil, err
	}
	results := make([]copyResult, n)
	var tasks sync.WaitGroup
	for i, c := range made {
		tasks.Go(func() {
			results[i] = runCopy(ctx, i, c, command, limit)
			done.one()
		})
	}
	tasks.Wait()
	return results, context.Cause(ctx) // once it is cut short, what there is is not what was asked for
}

// copiesKeepingGoing makes each copy by itself, some at a time. If none can be made, that is the error.
func (a *app) copiesKeepingGoing(ctx context.Context, copies copier, name string, n int, command sandbox.Cmd) ([]copyResult, error) {
	if n < 1 {
		_, err := copies(ctx, name, n) // knows what to say
		return nil, err
	}
	done := a.tellCopies(name, n)
	defer done.close()
	results := make([]copyResult, n)
	var made atomic.Int64
	places := make(chan struct{}, 2*runtime.NumCPU())
	var tasks sync.WaitGroup
	for i := range n {
		places <- struct{}{}
		tasks.Go(func() {
			defer func() { <-places }()
			list, err := copies(ctx, name, 1)
			if err != nil {
				results[i].Number = i
				results[i].fail(err)
			} else {
				made.Add(1)
				results[i] = runCopy(ctx, i, list[0], command, maxForkOutput)
			}
			done.one()
		})
	}
	tasks.Wait()
	if made.Load() == 0 {
		return nil, results[0].err
	}
	return results, context.Cause(ctx)
}

// copiesTold shows on a terminal how many copies are done. It may be used concurrently.
type copiesTold struct {
	mu       sync.Mutex
	bar      *progress // nil where there is no terminal
	name     string
	done, of int
}

func (a *app) tellCopies(name string, n int) *copiesTold {
	t := &copiesTold{name: "fork " + name, of: n}
	if bar := a.newProgress(); bar.bars != nil {
		t.bar = bar
		bar.steps(t.name, "", 0, n)
	}
	return t
}

func (t *copiesTold) one() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done++; t.bar != nil {
		t.bar.steps(t.name, "", t.done, t.of)
	}
}

func (t *copiesTold) close() {
	if t.bar != nil {
		t.bar.close()
	}
}
