package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/kernel"
)

func newKernel(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kernel",
		Short: "Import, list and remove guest kernels",
		Long: `Guest kernels are what the guests of AetherVM and QEMU boot: stock kernels of a
distribution, taken apart into an uncompressed kernel and a handful of modules.

  aether kernel import                             the one that this host runs
  aether kernel import debian:bookworm-backports   Debian's, Linux 6.12
  aether kernel ls
  AETHER_KERNEL=6.1 aether exec --vm qemu -- uname -r

Guests get the one that "aether kernel ls" names as the default of their system.
AETHER_KERNEL chooses another: by its version, the beginning of that or, with a slash, the
path of a kernel. Where there is none, the first guest downloads Debian's. Kernels are kept in
/var/lib/aether/kernels for root, else in the user's cache directory; AETHER_STATE=DIR puts
them elsewhere.`,
		Args: commandArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, sub := range []*cobra.Command{newKernelImport(a), newKernelList(a), newKernelRemove(a)} {
		sub.DisableFlagsInUseLine = true
		cmd.AddCommand(sub)
	}
	return cmd
}

// kernelStore is where this host's guest kernels are kept.
func kernelStore() (string, error) {
	state, err := hostdir.State()
	if err != nil {
		return "", err
	}
	return filepath.Join(state, "kernels"), nil
}

func newKernelImport(a *app) *cobra.Command {
	var asJSON bool
	var modules string
	cmd := &cobra.Command{
		Use:   "import [--modules DIR] [SOURCE] [--json]",
		Short: "Keep a kernel for guests",
		Long: `Keep a kernel for guests. SOURCE is

  debian:SUITE  Debian's kernel for virtual machines, downloaded from the mirror that this
                host's apt uses and checked against Debian's keys; nothing is installed:
                debian:bookworm (Linux 6.1) or debian:bookworm-backports (6.12)
  FILE          a bzImage such as /boot/vmlinuz-VERSION, a vmlinux, or a package
                linux-image-*.deb
  (none)        the kernel that this host runs, if it is installed in /boot or
                /usr/lib/modules

The modules of a FILE are looked for where they are installed, /lib/modules/VERSION;
--modules names another directory. A version that is there already is left as it is. A
kernel that no system can use is refused; "aether kernel ls" says which ones it can serve.

  aether kernel import debian:bookworm-backports
  aether kernel import --modules ./lib/modules/6.12.1 ./vmlinuz

It prints the version.`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := kernelStore()
			if err != nil {
				return err
			}
			source := ""
			if len(args) > 0 {
				if source = args[0]; source == "" {
					return usageError("`"+cmd.UseLine()+"`", "SOURCE is empty")
				}
			}
			bar := a.newProgress()
			k, err := kernel.Obtain(cmd.Context(), root, source, modules, func(phase string) {
				bar.line("kernel import: %s", phase)
			})
			bar.close()
			switch {
			case errors.Is(err, kernel.ErrFormat):
				return failed(err, "`aether kernel import --help` says what SOURCE can be", "%v", err)
			case err != nil:
				return err
			}
			for _, line := range lackLines(k.Lacks()) {
				a.notice("%s lacks what guests need of %s", k.Version, line)
			}
			if asJSON {
				entries, err := kernelEntries(root, []kernel.Kernel{k})
				if err != nil {
					return err
				}
				return a.printJSON(entries[0])
			}
			return a.printf("%s\n", k.Version)
		},
	}
	jsonFlag(cmd, &asJSON)
	cmd.Flags().StringVar(&modules, "modules", "", "directory of the modules of a kernel given as FILE")
	return cmd
}

// kernelEntry is what is printed of a kernel.
type kernelEntry struct {
	Version string              `json:"version"`
	Bytes   int64               `json:"bytes"`
	Default []string            `json:"default"` // for the guests of these systems
	Lacks   map[string][]string `json:"lacks"`   // by system
}

func kernelEntries(root string, kernels []kernel.Kernel) ([]kernelEntry, error) {
	entries := []kernelEntry{}
	for _, k := range kernels {
		size, err := k.Size()
		if err != nil {
			return nil, err
		}
		entries = append(entries, kernelEntry{Version: k.Version, Bytes: size, Default: []string{}, Lacks: k.Lacks()})
	}
	for _, system := range kernel.Systems() {
		k, err := kernel.Default(root, system)
		if errors.Is(err, fs.ErrNotExist) {
			continue // AETHER_KERNEL may name what is not there yet
		}
		if err != nil {
			return nil, err
		}
		for i, e := range entries {
			if e.Version == k.Version {
				entries[i].Default = append(e.Default, system)
			}
		}
	}
	return entries, nil
}

// lackLines is what a kernel lacks, a line for each system.
func lackLines(lacks map[string][]string) []string {
	var lines []string
	for _, system := range slices.Sorted(maps.Keys(lacks)) {
		lines = append(lines, system+": "+strings.Join(lacks[system], ", "))
	}
	return lines
}

func newKernelList(a *app) *cobra.Command {
	var asJSON, quiet bool
	cmd := &cobra.Command{
		Use:     "ls [--json] [--quiet]",
		Aliases: []string{"list"},
		Short:   "List the kernels for guests",
		Long: `List the kernels for guests, the newest first.

  aether kernel ls

Columns:
  version  what "uname -r" prints in the guest; its beginning is enough for AETHER_KERNEL
  size     space on disk in MiB
  default  systems whose guests get it: as AETHER_KERNEL says, else the newest, but
           Linux 6.1 for QEMU, whose emulated processor has trouble with 6.12
  lacks    systems that it cannot serve, and the modules that they need; "-" if none`,
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if asJSON && quiet {
				return usageError("give one of them", "--json and --quiet exclude each other")
			}
			root, err := kernelStore()
			if err != nil {
				return err
			}
			kernels, err := kernel.List(root)
			if err != nil {
				return err
			}
			if quiet {
				var b strings.Builder
				for _, k := range kernels {
					b.WriteString(k.Version + "\n")
				}
				return a.printf("%s", b.String())
			}
			entries, err := kernelEntries(root, kernels)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(entries)
			}
			t := table{head: []string{"version", "size", "default", "lacks"}, right: map[int]bool{1: true}}
			for _, e := range entries {
				def, lacks := "-", "-"
				if len(e.Default) > 0 {
					def = strings.Join(e.Default, ",")
				}
				if len(e.Lacks) > 0 {
					lacks = strings.Join(lackLines(e.Lacks), "; ")
				}
				t.add(e.Version, fmt.Sprintf("%.1f", float64(e.Bytes)/(1<<20)), def, lacks)
			}
			return t.write(a.out)
		},
	}
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print versions only")
	return cmd
}

func newKernelRemove(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "rm VERSION... [--json]",
		Aliases: []string{"remove"},
		Short:   "Remove kernels for guests",
		Long: `Remove kernels for guests, by their whole versions. Guests that run go on.

  aether kernel rm 6.1.0-50-cloud-amd64

It prints what was removed, one a line.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError("`aether kernel ls` lists the versions", "%s: an argument is missing", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			root, err := kernelStore()
			if err != nil {
				return err
			}
			const remedy = "`aether kernel ls` lists the versions"
			return a.removeEach(args, asJSON, remedy, func(version string) error {
				err := kernel.Remove(root, version)
				if errors.Is(err, fs.ErrNotExist) {
					err = notFound(err, remedy, "no guest kernel of version %s", version)
				}
				return err
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
