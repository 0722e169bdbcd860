package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/oneshot"
	"github.com/aethervm/aether/sandbox"
)

// runtime is a runsc that works on this host.
type runtime struct {
	path, version string
	// platform is how guest code is kept apart: "systrap", "kvm" or "ptrace".
	platform string
}

// installed finds the runtime once. The zero value is not usable.
type installed struct {
	turn chan struct{} // holds one token: a mutex whose wait ends with a context
	rt   *runtime
}

func newInstalled() installed {
	i := installed{turn: make(chan struct{}, 1)}
	i.turn <- struct{}{}
	return i
}

const remedyInstall = "run `make peers`, or set AETHER_RUNSC to a runsc of 2025 or later"

// runtime returns the runsc to use. With an error it may still tell the version.
func (d *Driver) runtime(ctx context.Context) (*runtime, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-d.installed.turn:
	}
	defer func() { d.installed.turn <- struct{}{} }()
	if d.installed.rt != nil {
		return d.installed.rt, nil
	}
	unavailable := func(detail, remedy string) error {
		return &sandbox.Error{Op: "probe", System: System, Err: sandbox.ErrUnavailable, Detail: detail, Remedy: remedy}
	}
	path, err := findRunsc()
	if err != nil {
		return nil, unavailable(err.Error(), remedyInstall)
	}
	v, err := version(ctx, path)
	if err != nil {
		return nil, unavailable(err.Error(), remedyInstall)
	}
	rt := &runtime{path: path, version: v}
	if os.Geteuid() != 0 {
		return rt, unavailable("runsc needs root for cgroups and checkpoints", "run as root")
	}
	if _, err := guestagent.Path(); err != nil {
		return rt, unavailable("find the guest agent: "+err.Error(), "")
	}
	rt.platform, err = choosePlatform(ctx, rt, try)
	if err != nil {
		return rt, unavailable(err.Error(), "see `dmesg` and https://gvisor.dev/docs/user_guide/platforms/")
	}
	d.installed.rt = rt
	return rt, nil
}

// findRunsc looks where the user says, where `make peers` puts it, and on the PATH.
func findRunsc() (string, error) {
	if name := os.Getenv("AETHER_RUNSC"); name != "" {
		path, err := exec.LookPath(name)
		if err != nil {
			return "", fmt.Errorf("runsc from AETHER_RUNSC: %w", err)
		}
		return filepath.Abs(path)
	}
	state, err := hostdir.State()
	if err != nil {
		return "", err
	}
	built := filepath.Join(state, "bin", "runsc")
	for _, name := range []string{built, "runsc"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no runsc at %s or on the PATH", built)
}

// platforms in the order in which they are tried. systrap is gVisor's own default and works
// everywhere. Its KVM platform is for bare metal and hangs where /dev/kvm is only half real, and
// ptrace is what old versions have; $AETHER_GVISOR_PLATFORM asks for one of them.
func platforms() ([]string, error) {
	all := []string{"systrap", "kvm", "ptrace"}
	asked := os.Getenv("AETHER_GVISOR_PLATFORM")
	switch {
	case asked == "":
		return all, nil
	case slices.Contains(all, asked):
		return []string{asked}, nil
	}
	return nil, fmt.Errorf("AETHER_GVISOR_PLATFORM is %q; it must be one of %s", asked, strings.Join(all, ", "))
}

// tryTimeout is how long a sandbox may take to start on a platform that works, and all platforms
// together must fit in what Probe has.
const tryTimeout = 8 * time.Second

// choosePlatform returns the first platform on which try succeeds. What was found is kept until the
// next boot or another version of runsc.
func choosePlatform(ctx context.Context, rt *runtime, try func(context.Context, *runtime) error) (string, error) {
	candidates, err := platforms()
	if err != nil {
		return "", err
	}
	key := choice{BootID: bootID(), Path: rt.path, Version: rt.version}
	if known, err := loadChoice(); err == nil && key.BootID != "" && slices.Contains(candidates, known.Platform) {
		key.Platform = known.Platform
		if known == key {
			return known.Platform, nil
		}
	}
	var errs []error
	for _, platform := range candidates {
		candidate := *rt
		candidate.platform = platform
		tryCtx, cancel := context.WithTimeout(ctx, tryTimeout)
		err := try(tryCtx, &candidate)
		cancel()
		if err == nil {
			key.Platform = platform
			_ = key.store() // it saves time, no more
			return platform, nil
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		errs = append(errs, fmt.Errorf("no sandbox starts on platform %s: %w", platform, err))
	}
	return "", errors.Join(errs...)
}

// try starts a sandbox that has nothing in it but the guest agent and runs a program in it. It
// also checks that the limits are in force: a runsc that cannot use the host's cgroups would leave
// the host without protection.
func try(ctx context.Context, rt *runtime) (err error) {
	if rt.platform == "kvm" {
		if _, err := os.Stat("/dev/kvm"); err != nil {
			return err
		}
	}
	owned, err := own()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, owned.disown()) }()
	rootfs := filepath.Join(owned.disks, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		return err
	}
	spec, err := sandbox.Spec{Image: sandbox.Image{Rootfs: rootfs}, MemoryMiB: sandbox.MinMemoryMiB}.WithDefaults()
	if err != nil {
		return err
	}
	s, err := launch(ctx, rt, owned, spec, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if got := s.group.memoryLimit(); got != int64(spec.MemoryMiB)*mib {
		return fmt.Errorf("runsc set a memory limit of %d bytes instead of %d MiB", got, spec.MemoryMiB)
	}
	code, err := s.runProgram(ctx, oneshot.Program{
		Args: []string{guestagent.Mount, "status", s.id}, Stdout: io.Discard, Stderr: io.Discard,
	})
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("the guest agent ended with exit code %d", code)
	}
	return nil
}

// choice is what was found, and what it depends on.
type choice struct {
	BootID   string `json:"boot_id"`
	Path     string `json:"path"`
	Version  string `json:"version"`
	Platform string `json:"platform"`
}

func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // empty: nothing is kept
	return strings.TrimSpace(string(id))
}

func choiceFile() (string, error) {
	state, err := hostdir.State()
	if err != nil {
		return "", err
	}
	return filepath.Join(state, System, "platform.json"), nil
}

func loadChoice() (choice, error) {
	var c choice
	name, err := choiceFile()
	if err != nil {
		return c, err
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(content, &c)
}

// store writes the choice so that a reader sees all of it or none.
func (c choice) store() error {
	name, err := choiceFile()
	if err != nil {
		return err
	}
	content, err := json.Marshal(c)
	if err != nil {
		return err
	}
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".platform-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails once renamed
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}
