package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/driver/all"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vms"
)

type execOptions struct {
	programOptions
	clientOptions
	vm            string
	memory, vcpus int
	detach, json  bool
}

func newExec(a *app) *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:   "exec [flags] [SANDBOX] -- COMMAND [ARG...]",
		Short: "Run a program in a fresh sandbox, which is thrown away, or in one of the server's",
		Long: `Create a sandbox, run one program in it, and remove it. Standard input, output and
error are the program's, and its exit code is passed on (see "aether help exit-codes").
Without a terminal, Ctrl-C ends the program and removes the sandbox.

` + ttyHelp + `

With the ID of a sandbox before the "--", the program runs in that one, which "aether new"
has made in a server and which stays. Flags stand before the ID. With -d it goes on in the
background, and the ID of the process is printed ("aether logs", "aether attach"); with -d -t it
has a terminal there.

  sb=$(aether new)
  aether exec $sb -- sh -c 'echo hi > /tmp/x'
  aether exec $sb -- bash
  aether exec -d $sb -- python3 -m http.server

  aether exec -- python3 -c 'print(6*7)'
  echo hello | aether exec --vm gvisor -- tr a-z A-Z
  aether exec --vm docker --memory 512 --timeout 10s -- sh -c 'sleep 60'; echo $?

Without --vm it takes the best system in "aether rank" that this host has.

The sandbox has no network unless it is given one. --allow names what it may reach, and
may be repeated; all else is refused, and no other name is resolved (AetherVM only):

  aether exec --vm aethervm --allow pypi.org:443 --allow '*.pythonhosted.org:443' -- pip download requests

A rule is [tcp://|udp://]HOST[:PORT[-PORT]]. HOST is a name, "*." and a name for all
names below it, an IPv4 address, a network such as 10.1.2.0/24, or "*" for every name and
every public address. Private and link-local networks (cloud metadata) are reached only
by a rule for nothing but them, an address of this host by a rule for exactly that one.
--net outbound without --allow is the system's ordinary network; with AetherVM, all that
is public.`,
		Args: needProgram,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.tty.check(); err != nil {
				return err
			}
			// Flags end at the first word, so that a "--" behind it is still there.
			if cmd.ArgsLenAtDash() < 0 && len(args) > 1 && args[1] == "--" {
				return a.execIn(cmd, o, args[0], args[2:])
			}
			if o.detach || o.json {
				return usageError("`aether exec -d SANDBOX -- COMMAND`", "%s: -d and --json are for a sandbox of the server's", cmd.CommandPath())
			}
			return a.exec(cmd.Context(), o, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.vm, "vm", "", "`system` to run it in")
	flags.IntVar(&o.memory, "memory", sandbox.DefaultMemoryMiB, "memory in `MiB`")
	flags.IntVar(&o.vcpus, "vcpus", sandbox.DefaultVCPUs, "virtual CPUs")
	flags.StringVar(&o.dockerRuntime, "docker-runtime", "", "runtime of the Docker engine (\"kata\", \"runsc\"), with --vm docker")
	flags.BoolVarP(&o.detach, "detach", "d", false, "with SANDBOX: in the background; print the ID of the process")
	flags.BoolVar(&o.json, "json", false, "with -d: print JSON")
	o.programOptions.register(cmd)
	o.clientOptions.register(cmd)
	completeSystems(cmd, "vm")
	return cmd
}

func (a *app) exec(ctx context.Context, o execOptions, args []string) (err error) {
	command := sandbox.Cmd{
		Args: args, Env: callersEnv(o.env), Dir: o.dir, Timeout: o.timeout,
		Stdin: a.in, Stdout: a.out, Stderr: a.err,
	}
	if err := command.Check(); err != nil {
		return err
	}
	if err := o.network.check(); err != nil {
		return err
	}
	f := a.openFleet(all.Options{DockerRuntime: o.dockerRuntime})
	defer f.close(&err)
	if o.vm != "" {
		if _, err := f.driver(o.vm); err != nil { // before anything slower
			return err
		}
	}
	spec, release, err := o.spec()
	if err != nil {
		return err
	}
	defer release()
	driver, err := f.choose(ctx, o)
	if err != nil {
		return err
	}
	a.sweepFirst(ctx, f)
	box, err := driver.Create(ctx, spec)
	if err != nil {
		return err
	}
	a.logger().Debug("created", "system", driver.System(), "sandbox", box.ID())
	exit, err := a.execOnTerminal(ctx, box, command, o.tty)
	// The sandbox is gone before the exit code is passed on; only then is the host as it was.
	if closeErr := box.Close(); err == nil && closeErr != nil {
		return failed(closeErr, "run `aether sweep`", "remove the sandbox: %v", closeErr)
	}
	if err != nil {
		return err
	}
	return passOn(exit)
}

func (a *app) execOnTerminal(ctx context.Context, box sandbox.Sandbox, command sandbox.Cmd, tty ttyOption) (sandbox.Exit, error) {
	seat := a.seat(tty)
	if err := seat.enter(); err != nil {
		return sandbox.Exit{}, err
	}
	defer seat.leave()
	command.Terminal = seat.terminal()
	return box.Exec(ctx, command)
}

// spec is the sandbox that the options ask for. Its image stays in the store until release.
func (o execOptions) spec() (spec sandbox.Spec, release func(), err error) {
	img, hold, err := holdImage(o.image)
	if err != nil {
		return spec, nil, err
	}
	spec = sandbox.Spec{Image: img, VCPUs: o.vcpus, MemoryMiB: o.memory}
	o.network.apply(&spec)
	if spec, err = spec.WithDefaults(); err != nil {
		_ = hold.Close()
		return spec, nil, err
	}
	return spec, func() { _ = hold.Close() }, nil
}

// choose returns the driver that was asked for, or the best ranked one that this host has.
func (f *fleet) choose(ctx context.Context, o execOptions) (sandbox.Driver, error) {
	if o.dockerRuntime != "" && o.vm == "" {
		o.vm = vms.Docker.Name()
	}
	if o.vm != "" {
		d, err := f.driver(o.vm)
		if err == nil && o.dockerRuntime != "" && d.System() != vms.Docker.Name() {
			err = usageError("use --vm docker", "--docker-runtime needs Docker, not %s", d.System())
		}
		return d, err
	}
	for _, profile := range vms.Rank(vms.Equal()) {
		d, err := f.driver(profile.VM.Name())
		if err != nil {
			return nil, err
		}
		if info := d.Probe(ctx); info.Available {
			return d, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return nil, unavailable("`aether doctor` tells what is missing", "none of the systems is available on this host")
}
