package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/lab"
	"github.com/aethervm/aether/internal/lab/guest"
)

// labInit are the arguments with which the lab's kernel starts this program as its PID 1.
var labInit = []string{"lab", "init"}

func newLab(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Run programs in a machine with real KVM, on any host",
		Long: `The lab is a virtual machine that QEMU emulates in software, processor and all, with a
working KVM in it. What needs KVM can be run and tested there on a host that has none,
and its clock can count instructions, so that a measurement comes out the same on any
host, however busy.

  aether lab build
  aether lab run -- aether doctor
  aether lab run --icount -- python3 -c 'print(6*7)'

It is kept in the directory lab below /var/lib/aether (see AETHER_STATE in
"aether image --help").`,
		Args: commandArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, sub := range []*cobra.Command{newLabBuild(a), newLabRun(a), newLabInit()} {
		sub.DisableFlagsInUseLine = true
		cmd.AddCommand(sub)
	}
	return cmd
}

func newLabBuild(a *app) *cobra.Command {
	var asJSON bool
	var version string
	cmd := &cobra.Command{
		Use:   "build [--kernel VERSION] [--json]",
		Short: "Make the lab, or make it anew if what goes into it has changed",
		Long: `Make the lab: a Debian with QEMU and its kernel, and what this host has to be measured
(the guest image debian-python, guest kernels, runsc). What is there already is kept, so
this takes a minute the first time and a moment later. It needs root, mmdebstrap,
mkfs.erofs and a Debian mirror; "aether lab run" needs none of these.

  aether lab build
  aether lab build --kernel 6.12

Its kernel is Linux 6.1. With --kernel it is given another one, which "aether lab run"
then takes with the same option. It prints the names of what the lab is made of: the same content always has the same name.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, err := hostdir.State()
			if err != nil {
				return err
			}
			dir, err := lab.Dir()
			if err != nil {
				return err
			}
			bar := a.newProgress()
			phase := func(phase string) { bar.bytes("build lab", phase, 0, 0) }
			image, err := lab.Build(cmd.Context(), dir, state, phase)
			if err == nil {
				err = lab.BuildKernel(cmd.Context(), dir, version, phase)
			}
			bar.close()
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(image)
			}
			return a.printf("%s %s\n", image.Base, image.Peers)
		},
	}
	labKernelFlag(cmd, &version)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func labKernelFlag(cmd *cobra.Command, version *string) {
	cmd.Flags().StringVar(version, "kernel", lab.DefaultKernel, "the lab's own kernel: "+strings.Join(lab.Kernels(), " or "))
	_ = cmd.RegisterFlagCompletionFunc("kernel", cobra.FixedCompletions(lab.Kernels(), cobra.ShellCompDirectiveNoFileComp)) // the flag exists
}

type labOptions struct {
	kernel       string
	icount       bool
	cpus, memory int
	timeout      time.Duration
	files, env   []string
	out          string
	asJSON       bool
}

func newLabRun(a *app) *cobra.Command {
	var o labOptions
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG...]",
		Short: "Boot a lab, run a program in it, and throw it away",
		Long: `Boot a lab, run one program as root in it, and remove it. Standard output and error are
the program's, standard input is empty, and its exit code is passed on (see "aether help
exit-codes"; 124 to 127 are as those of "aether exec"). Ctrl-C ends the lab.

  aether lab run -- sh -c 'ls -l /dev/kvm; uname -r'
  aether lab run --file ./kvm.test -- ./kvm.test -test.v
  aether lab run --icount --out results -- aether bench --out out/bench --runs 3

The program starts in /lab, where files given with --file are put unless they have a
place of their own. The command aether there is this one. What it leaves in /lab/out is
copied to the directory that --out names.

With --icount the lab's clock counts instructions: the same command takes the same time
by it. The last line on standard error tells the time that the program took by the lab's
clock, what that clock showed when it was started, and the time that all took here. With
--json that line is an object: {"lab_ns":..., "boot_ns":..., "host_ns":...}.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError("`aether lab run -- true`", "%s: the command to run is missing", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.labRun(cmd.Context(), o, args)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows the command's name belongs to the command
	flags.BoolVar(&o.icount, "icount", false, "let the lab's clock count instructions; with one CPU only")
	labKernelFlag(cmd, &o.kernel)
	flags.IntVar(&o.cpus, "vcpus", lab.DefaultCPUs, "virtual CPUs")
	flags.IntVar(&o.memory, "memory", lab.DefaultMemoryMiB, "memory in `MiB`")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Minute, "end the lab after so long on this host")
	flags.StringArrayVar(&o.files, "file", nil, "give the lab a file or directory, `HOST[:GUEST]` (repeatable)")
	flags.StringArrayVarP(&o.env, "env", "e", nil, "environment `KEY=VALUE`; KEY alone takes the caller's value (repeatable)")
	flags.StringVar(&o.out, "out", "", "`directory` that gets what the program leaves in /lab/out")
	flags.BoolVar(&o.asJSON, "json", false, "print the times, and errors, as JSON")
	_ = cmd.MarkFlagDirname("out") // the flag exists
	return cmd
}

// labTimes is what `lab run` reports with --json.
type labTimes struct {
	Lab  time.Duration `json:"lab_ns"`
	Boot time.Duration `json:"boot_ns"`
	Host time.Duration `json:"host_ns"`
}

func (a *app) labRun(ctx context.Context, o labOptions, args []string) error {
	if o.timeout <= 0 {
		return usageError("it must be more than 0", "--timeout is %v", o.timeout)
	}
	c := lab.Config{
		CPUs: o.cpus, MemoryMiB: o.memory, Icount: o.icount, Args: args, Env: callersEnv(o.env), Out: o.out,
		Stdout: a.out, Stderr: a.err, InitArgs: labInit,
	}
	if a.verbose {
		c.Console = a.err
	}
	for _, s := range o.files {
		f, err := lab.ParseFile(s)
		if err != nil {
			return err
		}
		c.Files = append(c.Files, f)
	}
	var err error
	if c.Init, err = os.Executable(); err != nil {
		return err
	}
	dir, err := lab.Dir()
	if err != nil {
		return err
	}
	image, err := lab.Open(dir)
	if err == nil {
		image, err = image.WithKernel(o.kernel)
	}
	if err != nil {
		return err
	}
	expired := errors.New("the lab has run out of time")
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, expired)
	defer cancel()
	result, err := lab.Run(ctx, image, c)
	switch {
	case errors.Is(err, expired):
		return &failure{code: exitTimeout, kind: "failed", err: err, message: fmt.Sprintf("the lab was ended after %v: %v", o.timeout, err),
			remedy: "give it more time with --timeout"}
	case err != nil:
		return err
	}
	if err := a.labReport(o, result); err != nil {
		return err
	}
	switch {
	case result.Signal != 0:
		return exitWith(exitSignal + result.Signal)
	case result.Code != 0:
		return exitWith(result.Code)
	}
	return nil
}

func (a *app) labReport(o labOptions, r lab.Result) error {
	if o.asJSON {
		return json.NewEncoder(a.err).Encode(labTimes{Lab: r.Lab, Boot: r.Boot, Host: r.Host})
	}
	a.notice("lab time %.9f s after a boot of %.9f s; host time %.1f s", r.Lab.Seconds(), r.Boot.Seconds(), r.Host.Seconds())
	return nil
}

// newLabInit is PID 1 of a lab.
func newLabInit() *cobra.Command {
	return &cobra.Command{
		Use:    labInit[1],
		Short:  "Be PID 1 of a lab",
		Hidden: true,
		Args:   takes(0, 0),
		RunE:   func(*cobra.Command, []string) error { return guest.Main() },
	}
}
