// Package absent holds the systems that this version of aether knows but cannot drive. Each is an
// honest [sandbox.Driver]: Probe says what was found on this host, why that is not enough and what
// can be done, and Create refuses with the same words. No figure is ever made up for them.
package absent

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/aethervm/aether/internal/head"
	"github.com/aethervm/aether/sandbox"
)

// system is what is known of a system without a driver.
type system struct {
	name string
	// title is the system's name in a sentence.
	title string
	// programs are looked for on PATH and in dirs; the first one found stands for the system.
	programs []string
	dirs     []string
	// versionArgs make a program print its version.
	versionArgs []string
	// found and missing are the remedies for a host that has a program and for one that has none.
	found, missing string
}

// systems in the fixed order of package vms.
func systems() []system {
	const published = "`aether rank` shows its published figures"
	return []system{
		{
			name:        "firecracker",
			title:       "Firecracker",
			programs:    []string{"firecracker"},
			versionArgs: []string{"--version"},
			found:       "drive it with its own tools; " + published,
			missing:     published + "; installing it does not help yet: this version has no driver for it",
		},
		{
			name:        "cloud-hypervisor",
			title:       "Cloud Hypervisor",
			programs:    []string{"cloud-hypervisor"},
			versionArgs: []string{"--version"},
			found:       "drive it with its own tools; " + published,
			missing:     published + "; installing it does not help yet: this version has no driver for it",
		},
		{
			name:        "kata",
			title:       "Kata Containers",
			programs:    []string{"kata-runtime", "containerd-shim-kata-v2"},
			dirs:        []string{"/opt/kata/bin"}, // where Kata's release archives unpack to
			versionArgs: []string{"--version"},
			found: "register it as a runtime of the Docker engine (\"runtimes\" in /etc/docker/daemon.json) and use it " +
				"through Docker: `aether exec --vm docker --docker-runtime kata`",
			missing: "install Kata Containers, register it as a runtime of the Docker engine and use it through Docker: " +
				"`aether exec --vm docker --docker-runtime kata`",
		},
	}
}

// Drivers returns the systems that have no driver, in the fixed order of package vms.
func Drivers() []sandbox.Driver {
	var drivers []sandbox.Driver
	for _, s := range systems() {
		drivers = append(drivers, &driver{system: s, lookPath: exec.LookPath})
	}
	return drivers
}

type driver struct {
	system   system
	lookPath func(string) (string, error)
}

func (d *driver) System() string { return d.system.name }

// Probe looks for the system's programs and says why they are of no use here.
func (d *driver) Probe(ctx context.Context) sandbox.Info {
	info := sandbox.Info{System: d.system.name, Remedy: d.system.missing}
	path, ok := d.find()
	if !ok {
		info.Reason = fmt.Sprintf("no %s on PATH, and aether has no driver for %s yet",
			strings.Join(d.system.programs, " or "), d.system.title)
		return info
	}
	info.Version = version(ctx, path, d.system.versionArgs)
	info.Reason = fmt.Sprintf("found at %s, but aether has no driver for %s yet", path, d.system.title)
	info.Remedy = d.system.found
	return info
}

// Create refuses, with what Probe found.
func (d *driver) Create(ctx context.Context, _ sandbox.Spec) (sandbox.Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	info := d.Probe(ctx)
	return nil, &sandbox.Error{
		Op: "create", System: d.system.name, Err: sandbox.ErrUnavailable,
		Detail: info.Reason, Remedy: info.Remedy,
	}
}

// Sweep has nothing to remove: nothing is ever made.
func (d *driver) Sweep(context.Context) (int, error) { return 0, nil }

// Close has nothing to release.
func (d *driver) Close() error { return nil }

func (d *driver) find() (string, bool) {
	for _, program := range d.system.programs {
		// A program in the current directory is no installation: LookPath's ErrDot is a miss.
		if path, err := d.lookPath(program); err == nil {
			return path, true
		}
	}
	for _, dir := range d.system.dirs {
		for _, program := range d.system.programs {
			if path, err := d.lookPath(filepath.Join(dir, program)); err == nil {
				return path, true
			}
		}
	}
	return "", false
}

// versionPattern is a version number as these programs print it: "1.10.1", "v38.0.0", "3.2.0-rc1".
var versionPattern = regexp.MustCompile(`v?[0-9]+\.[0-9]+(\.[0-9]+)?(-[0-9A-Za-z.]+)?`)

// version asks a program for its version; it is empty when the program does not say within 5 s.
func version(ctx context.Context, path string, args []string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out := head.New(4 << 10)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout = out
	cmd.WaitDelay = time.Second // a child of the program may keep the pipe open
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return ""
	}
	return versionPattern.FindString(out.String())
}
