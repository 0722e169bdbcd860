package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/driver/all"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/sandbox"
)

type runOptions struct {
	programOptions
	vm           string
	memory, cpus int
	secrets      []string
	egress       bool
}

func newRun(a *app) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG...]",
		Short: "Run a program in a sandbox of the best system here, then throw it away",
		Long: `Create a sandbox, run one program in it, and remove it, as an agent's tool call does: by
the runtime that is beneath "aether serve" and "aether mcp", in this process. Standard
input, output and error are the program's, and its exit code is passed on (see "aether
help exit-codes"). Without a terminal, Ctrl-C ends the program and removes the sandbox.

  aether run -- python3 -c 'print(6*7)'
  aether run -v --vm auto --memory 512 -- uname -a
  echo hello | aether run --vm gvisor --timeout 10s -- tr a-z A-Z
  aether run -- bash

` + ttyHelp + `

--secret lets it use a credential that it never sees: aether puts it into its requests to one
host, over HTTPS, on the way. It needs a system whose network ends in aether (aethervm).
The program can reach that host and, without --net or --allow, nothing else. The header is
"Authorization: Bearer ..." unless header= and prefix= say another. The file is read for
each request.

  aether run --secret host=api.github.com,src=token.txt -- curl -s https://api.github.com/user
  aether run --secret host=api.example.com,env=KEY,header=X-Api-Key -- python3 agent.py

--vm auto, the default, takes the best system in "aether rank" that this host has and
that can do what is asked for; -v says which one it was, and why.`,
		Args: needProgram,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runOnce(cmd.Context(), o, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.vm, "vm", "auto", "`system` to run it in, or \"auto\"")
	flags.IntVar(&o.memory, "memory", sandbox.DefaultMemoryMiB, "memory in `MiB`")
	flags.IntVar(&o.cpus, "vcpus", sandbox.DefaultVCPUs, "virtual CPUs")
	flags.StringVar(&o.dockerRuntime, "docker-runtime", "", "runtime of the Docker engine (\"kata\", \"runsc\"), with Docker")
	flags.StringArrayVar(&o.secrets, "secret", nil, "a credential for one host, which the program does not see: `"+secretSyntax+"` (repeatable)")
	flags.BoolVar(&o.egress, "egress", false, "say at the end, on standard error, what the network refused, and what secrets were used for")
	o.register(cmd)
	completeSystems(cmd, "vm")
	return cmd
}

func (a *app) runOnce(ctx context.Context, o runOptions, args []string) (err error) {
	if err := errors.Join(o.network.check(), o.tty.check()); err != nil {
		return err
	}
	secrets, err := parseSecrets(o.secrets, false)
	if err != nil {
		return err
	}
	store, err := image.Default()
	if err != nil {
		return err
	}
	f := a.openFleet(all.Options{DockerRuntime: o.dockerRuntime})
	defer f.close(&err)
	rt, err := runtime.Open(ctx, runtime.Config{Drivers: f.drivers, Images: runtime.StoreImages(store), System: o.vm, Log: a.logger(),
		Secrets: secrets, Egress: runtime.EgressLimit{Unlimited: true}}) // who gives the flags owns the host
	if err != nil {
		return fromRuntime(err)
	}
	defer func() {
		// Only when the sandbox is gone is the exit code passed on: the host is as it was.
		if closeErr := rt.Close(); closeErr != nil && (err == nil || isExit(err)) {
			err = failed(closeErr, "run `aether sweep`", "remove the sandbox: %v", closeErr)
		}
	}()
	a.tellRecovered(rt.Recovered())
	tenant, err := rt.Local(ctx)
	if err != nil {
		return fromRuntime(err)
	}
	s, err := rt.OpenSession(ctx, tenant.ID, runtime.SessionSpec{Capabilities: tenant.Capabilities})
	if err != nil {
		return fromRuntime(err)
	}
	spec := o.spec()
	spec.Secrets = secretUses(secrets)
	box, err := s.Create(ctx, runtime.CreateRequest{SandboxSpec: spec})
	if err != nil {
		return fromRuntime(err)
	}
	if a.verbose {
		a.notice("%s, %s; sandbox %s, %d MiB, network %s", box.System, box.Why, box.ID, box.MemoryMiB, box.Network)
	}
	seat := a.seat(o.tty)
	if err := seat.enter(); err != nil {
		return err
	}
	defer seat.leave()
	res, err := s.Run(ctx, runtime.RunRequest{
		Sandbox: box.ID, Args: args, Dir: o.dir, Env: callersEnv(o.env), Timeout: o.timeout,
		Stdin: a.in, Stdout: a.out, Stderr: a.err, Terminal: seat.runtime(),
	})
	seat.leave()
	if o.egress {
		a.tellEgress(context.WithoutCancel(ctx), s, box.ID)
	}
	if err != nil {
		return fromRuntime(err)
	}
	exit := sandbox.Exit{TimedOut: res.TimedOut}
	if res.Signal != "" {
		exit.Signal = int(unix.SignalNum(res.Signal))
	}
	if res.ExitCode != nil {
		exit.Code = *res.ExitCode
	}
	return passOn(exit)
}

// spec is the sandbox that the options ask for. It lives as long as the program, however idle that is.
func (o runOptions) spec() runtime.SandboxSpec {
	return runtime.SandboxSpec{
		System: o.vm, Image: o.image, VCPUs: o.cpus, MemoryMiB: o.memory, Network: sandbox.Network(o.network.net), Egress: o.network.allow,
		Idle: runtime.IdlePolicy{Pause: -1, Kill: -1},
	}
}

// tellRecovered says what was removed of dead processes, and what went with it.
func (a *app) tellRecovered(found runtime.Recovery) {
	const most = 10
	for i, o := range found.Orphans {
		if i == most {
			a.notice("and %s", count(len(found.Orphans)-most, "more sandbox", "more sandboxes"))
			break
		}
		a.notice("sandbox %s is gone with the process that had it", o.Sandbox)
	}
	for _, id := range found.Lost {
		a.notice("%s is lost: it was not finished, or its files are gone", id)
	}
	for system, n := range found.Swept {
		a.notice("removed what a dead process left: %s of %s", count(n, "sandbox", "sandboxes"), system)
	}
	for _, note := range found.Notes {
		a.logger().Warn(note)
	}
}

func isExit(err error) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && f.kind == "exit"
}

// fromRuntime gives an error of the runtime its exit code.
func fromRuntime(err error) error {
	e, ok := errors.AsType[*runtime.Error](err)
	if !ok || outputGone(err) || e.Code == runtime.CodeCancelled {
		return err
	}
	f := &failure{code: exitFailed, kind: "failed", message: e.Op + ": " + e.Cause, remedy: e.Remedy, err: err}
	if remedy := remedyOfFiles(err); remedy != "" { // whatever could not be written, that is what to do first
		f.remedy = remedy
	}
	switch e.Code {
	case runtime.CodeInvalid:
		f.code, f.kind = exitUsage, "usage"
	case runtime.CodeUnavailable, runtime.CodeUnsupported:
		f.code, f.kind = exitUnavailable, "unavailable"
	case runtime.CodeNotFound:
		f.code, f.kind = exitNotFound, "not-found"
	}
	return f
}
