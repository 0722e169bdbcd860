package aethervm

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/aethervm/aether/internal/agentsandbox"
	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/sandbox"
)

// Probe is sandbox.Driver's. That /dev/kvm is there says little, so micro-guests find out what it is
// worth. Then a cell is started, which shows what of its confinement this host allows.
func (d *Driver) Probe(ctx context.Context) sandbox.Info {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout-time.Second)
	defer cancel()
	info := sandbox.Info{System: System, Version: version()}
	if d.keeper.Closed() {
		return info.Because(errors.New("the driver was closed"))
	}
	guest, err := d.host(ctx, "probe")
	if err != nil {
		return info.Because(err)
	}
	if _, err := agentsandbox.FindMkfs(System); err != nil {
		return info.Because(err)
	}
	confinement, err := d.confinement.Get(ctx, func(ctx context.Context) (cell.Confinement, error) { return trial(ctx, guest) })
	if err != nil {
		return info.Because(err)
	}
	info.Available, info.Accelerator = true, "kvm"
	info.Notes = []string{
		"guest kernel " + guest.Kernel.Version,
		fmt.Sprintf("a guest has %d MiB, and %d MiB a GiB, for its kernel beside the memory of its programs", kernelBaseMiB, 1024/kernelShare),
	}
	for _, l := range confinement.Missing() {
		info.Notes = append(info.Notes, fmt.Sprintf("cells are not confined by %s: %s", l.Name, l.Detail))
	}
	return info
}

// trial starts a cell and ends it at once, before its guest has come to anything.
func trial(ctx context.Context, guest *agentsandbox.Guest) (_ cell.Confinement, err error) {
	program, err := openProgram()
	if err != nil {
		return nil, err
	}
	l, err := acquire()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	c, err := cell.Start(ctx, cell.Config{
		ID: cellsOf(l.ID) + "probe", Program: program, Kernel: guest.Image, VCPUs: 1, MemoryMiB: ramMiB(sandbox.MinMemoryMiB),
	})
	if err != nil {
		return nil, err
	}
	return c.Confinement(), c.Close()
}

// version is that of the program that AetherVM is part of.
func version() string {
	const unknown = "devel"
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return unknown
	}
	if v := build.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range build.Settings {
		if s.Key == "vcs.revision" {
			return unknown + "-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return unknown
}
