package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/driver/all"
	"github.com/aethervm/aether/internal/host"
	"github.com/aethervm/aether/sandbox"
)

func newDoctor(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor [--json]",
		Short: "Tell what this host has, what is missing, and what to do about it",
		Long: `Tell the facts of this host that matter for sandboxes, then for each of the seven
systems whether it can be used here, and if not why not and what to do. It exits with 0
if at least one system can be used, else with 3.

  aether doctor
  aether doctor --json | jq '.systems[] | select(.available) | .system'

Columns:
  system       canonical name
  available    yes or no
  version      as the system names itself
  accelerator  what keeps guest code apart: kvm, tcg (software emulation), systrap, runc...
  about        why it cannot be used and what to do, or the limits that it has here`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx := cmd.Context()
			f := a.openFleet(all.Options{})
			defer f.close(&err)
			a.sweepFirst(ctx, f)
			facts := host.Read(ctx)
			infos := f.probe(ctx)
			if err := ctx.Err(); err != nil {
				return err
			}
			if asJSON {
				err = a.printJSON(diagnosis{facts, infos})
			} else {
				err = a.printDiagnosis(facts, infos)
			}
			if err == nil && !slices.ContainsFunc(infos, func(i sandbox.Info) bool { return i.Available }) {
				err = unavailable("the table tells what to do for each", "none of the systems is available on this host")
			}
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

type diagnosis struct {
	Host    host.Facts     `json:"host"`
	Systems []sandbox.Info `json:"systems"`
}

func (a *app) printDiagnosis(facts host.Facts, infos []sandbox.Info) error {
	h := table{head: []string{"host", ""}}
	for _, row := range hostRows(facts) {
		h.add(row[0], row[1])
	}
	if err := h.write(a.out); err != nil {
		return err
	}
	t := table{head: []string{"system", "available", "version", "accelerator", "about"}}
	for _, info := range infos {
		var about []string
		for _, s := range append([]string{info.Reason, info.Remedy}, info.Notes...) {
			if s != "" {
				about = append(about, s)
			}
		}
		if len(about) == 0 {
			about = []string{""}
		}
		available := "no"
		if info.Available {
			available = "yes"
		}
		t.add(info.System, available, orDash(info.Version), orDash(info.Accelerator), about[0])
		for _, more := range about[1:] { // one thing a line, so that lines stay short
			t.add("", "", "", "", more)
		}
	}
	if err := a.printf("\n"); err != nil {
		return err
	}
	return t.write(a.out)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// hostRows are the facts in words, each with its name. What is unknown says so.
func hostRows(f host.Facts) [][2]string {
	user := "root"
	if f.UID != 0 {
		user = fmt.Sprintf("uid %d: most systems need root", f.UID)
	}
	guest := ""
	if g := f.Virtualisation.Guest; g != nil {
		guest = "no"
		if *g {
			guest = strings.TrimSpace("yes " + f.Virtualisation.Product)
		}
	}
	kvm := f.KVM.Reason
	if f.KVM.State != "" {
		kvm = strings.Trim(fmt.Sprintf("%s: %s", f.KVM.State, f.KVM.Reason), ": ")
	}
	rows := [][2]string{
		{"cpu", fmt.Sprintf("%d x %s (%s)", f.CPU.Cores, orUnknown(f.CPU.Model), f.CPU.Arch)},
		{"memory", fmt.Sprintf("%d MiB", f.MemoryBytes>>20)},
		{"kernel", orUnknown(f.Kernel.Release)},
		{"distribution", orUnknown(f.OS)},
		{"virtual machine", orUnknown(guest)},
		{"cgroup", strings.TrimSpace(orUnknown(f.Cgroup.Version) + " " + strings.Join(f.Cgroup.Controllers, " "))},
		{"user", user},
		{"/dev/kvm", orUnknown(kvm)},
	}
	if f.KVM.Remedy != "" {
		rows = append(rows, [2]string{"", f.KVM.Remedy})
	}
	for _, name := range slices.Sorted(maps.Keys(f.Unknown)) {
		rows = append(rows, [2]string{name, "unknown: " + f.Unknown[name]})
	}
	return rows
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// hostFacts are the facts that go with results beside those that package bench finds by itself.
func hostFacts(ctx context.Context) map[string]string {
	facts := map[string]string{}
	for _, row := range hostRows(host.Read(ctx)) {
		switch row[0] {
		case "virtual machine", "cgroup", "/dev/kvm", "user":
			facts[row[0]] = row[1]
		}
	}
	return facts
}
