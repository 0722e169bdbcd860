package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentsandbox"
	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/identity"
	"github.com/aethervm/aether/internal/tail"
	"github.com/aethervm/aether/sandbox"
)

// accelerator is what executes guest code, and why.
type accelerator struct {
	Name   string `json:"name"`             // "kvm" or "tcg"
	Reason string `json:"reason,omitempty"` // why it is not KVM
}

func (a accelerator) notes() []string {
	if a.Name == accelKVM {
		return nil
	}
	return []string{
		"software emulation, not hardware virtualisation: " + a.Reason,
		"programs see a CPU of 2008 (x86-64-v2, no AVX) and no random addresses, which software emulation is slow at",
	}
}

const (
	kvmDevice = "/dev/kvm"
	// EnvAccelerator forces "kvm" or "tcg".
	envAccelerator = "AETHER_QEMU_ACCEL"
	// trialPatience is many times what a kernel needs to start its init process under KVM.
	trialPatience = 10 * time.Second
	// trialMark is printed by the agent's trial mode.
	trialMark = "aether-agent: alive"
)

// chooseAccelerator finds out whether a guest boots under KVM. That /dev/kvm is there says little:
// some hosts emulate privileged guest code, at a thousandth of the speed and not completely, so
// that QEMU aborts or crawls. The answer of a trial holds until the host is booted again or QEMU or
// the kernel is another.
func chooseAccelerator(ctx context.Context, binary string, guest *guestFiles) (accelerator, error) {
	switch forced := os.Getenv(envAccelerator); forced {
	case "":
	case accelKVM:
		return accelerator{Name: accelKVM}, nil
	case accelTCG:
		return accelerator{Name: accelTCG, Reason: envAccelerator + " says so"}, nil
	default:
		return accelerator{}, &sandbox.Error{Op: "probe", System: System, Err: sandbox.ErrInvalid,
			Detail: fmt.Sprintf("%s is %q", envAccelerator, forced), Remedy: "set it to kvm or tcg, or not at all"}
	}
	if reason := kvmAccess(); reason != "" {
		return accelerator{Name: accelTCG, Reason: reason}, nil
	}
	cache, key, err := trialCache(binary, guest)
	if err != nil {
		return accelerator{}, err
	}
	if a, ok := cachedTrial(cache, key); ok {
		return a, nil
	}
	a := accelerator{Name: accelKVM}
	if err := tryKVM(ctx, binary, guest); err != nil {
		if ctx.Err() != nil {
			return accelerator{}, ctx.Err()
		}
		a = accelerator{Name: accelTCG, Reason: "a guest does not boot under KVM here: " + err.Error()}
	}
	storeTrial(cache, key, a)
	return a, nil
}

// kvmAccess returns why QEMU, as the user that it will run as, cannot open the device; "" if it can.
func kvmAccess() string {
	info, err := os.Stat(kvmDevice)
	if err != nil {
		return kvmDevice + " is not there"
	}
	if os.Geteuid() != 0 {
		if err := unix.Access(kvmDevice, unix.R_OK|unix.W_OK); err != nil {
			return fmt.Sprintf("%s: %v (add the user to the group that owns it)", kvmDevice, err)
		}
		return ""
	}
	if mode := info.Mode().Perm(); mode&0o006 != 0o006 && (mode&0o060 != 0o060 || len(kvmGroups()) == 0) {
		return fmt.Sprintf("%s can be opened by root only, as which QEMU is not run (chgrp kvm %[1]s && chmod 660 %[1]s)", kvmDevice)
	}
	return ""
}

// kvmGroups is the group that owns the device, unless it is root's.
func kvmGroups() []uint32 {
	info, err := os.Stat(kvmDevice)
	if err != nil {
		return nil
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Gid == 0 {
		return nil
	}
	return []uint32{st.Gid}
}

// tryKVM boots the guest's kernel under KVM until the agent says that it is there.
func tryKVM(ctx context.Context, binary string, guest *guestFiles) error {
	ctx, cancel := context.WithTimeout(ctx, trialPatience)
	defer cancel()
	id, err := identity.Take()
	if err != nil {
		return err
	}
	defer id.Release()
	console, messages := tail.New(agentsandbox.TailSize), tail.New(agentsandbox.TailSize)
	cmd := exec.CommandContext(ctx, binary,
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-machine", "microvm,acpi=on,rtc=on,isa-serial=on", "-accel", accelKVM, "-cpu", "host", "-m", fmt.Sprintf("%dM", kernelMiB+128),
		"-kernel", fdPath(3), "-initrd", fdPath(4), "-append", kernelCommandLine(accelKVM, 0, "init", "trial"),
		"-serial", "stdio")
	cmd.ExtraFiles = []*os.File{guest.Image, guest.Initrd}
	cmd.Stdout, cmd.Stderr = console, messages
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = confinement(id, kvmGroups())
	// The death signal comes when the thread ends that made the process: see machine.run.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	switch {
	case console.Contains(trialMark):
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("it has not come up in %v", trialPatience)
	case err == nil:
		err = errors.New("QEMU ended")
	}
	return fmt.Errorf("%w: %s", err, strings.TrimSpace(agentsandbox.EndOf(messages, 2)+" "+agentsandbox.EndOf(console, 2)))
}

// trial is a cached answer.
type trial struct {
	Key         string      `json:"key"`
	Accelerator accelerator `json:"accelerator"`
}

// trialCache returns where the answer is kept, and what it depends on.
func trialCache(binary string, guest *guestFiles) (path, key string, err error) {
	state, err := hostdir.State()
	if err != nil {
		return "", "", err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", "", err
	}
	info, err := os.Stat(binary)
	if err != nil {
		return "", "", err
	}
	device, err := os.Stat(kvmDevice)
	if err != nil {
		return "", "", err
	}
	key = fmt.Sprintf("boot %s, %s of %s, kernel %s, device %s", strings.TrimSpace(string(boot)), binary,
		info.ModTime().UTC().Format(time.RFC3339), guest.Kernel.Version, device.ModTime().UTC().Format(time.RFC3339))
	return filepath.Join(state, "qemu", "kvm-trial.json"), key, nil
}

func cachedTrial(path, key string) (accelerator, bool) {
	data, err := os.ReadFile(path)
	var t trial
	if err != nil || json.Unmarshal(data, &t) != nil || t.Key != key {
		return accelerator{}, false
	}
	return t.Accelerator, t.Accelerator.Name == accelKVM || t.Accelerator.Name == accelTCG
}

// storeTrial keeps an answer. Where that fails, the trial is made again next time.
func storeTrial(path, key string, a accelerator) {
	data, err := json.Marshal(trial{Key: key, Accelerator: a})
	if err != nil || os.MkdirAll(filepath.Dir(path), 0o755) != nil {
		return
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".kvm-trial-*")
	if err != nil {
		return
	}
	_, err = tmp.Write(data)
	if errors.Join(err, tmp.Close()) != nil || os.Rename(tmp.Name(), path) != nil {
		_ = os.Remove(tmp.Name())
	}
}
