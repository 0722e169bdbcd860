package vmm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/machine"
	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/balloon"
	"github.com/aethervm/aether/internal/virtio/blk"
	"github.com/aethervm/aether/internal/virtio/rng"
	"github.com/aethervm/aether/internal/virtio/vsock"
)

// fixedDevices is how many devices every VM has.
const fixedDevices = 3

func build(cfg *Config) (_ *VM, err error) {
	vm := &VM{}
	defer func() {
		if err != nil {
			err = errors.Join(err, vm.free())
		}
	}()
	kernel, done, err := openKernel(cfg.Kernel, cfg.MemoryMiB)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	if vm.memory, err = newMemory(cfg); err != nil {
		return nil, err
	}
	devices, err := vm.devices(cfg)
	if err != nil {
		return nil, err
	}
	b := boot.Config{Kernel: kernel, Cmdline: cfg.cmdline(), VCPUs: cfg.VCPUs}
	if vm.boot, err = load(vm.memory, b, cfg.Initramfs, len(devices)); err != nil {
		return nil, err
	}
	if err := vm.assemble(cfg, devices); err != nil {
		return nil, err
	}
	return vm, nil
}

// assemble makes the machine of the memory and the devices.
func (vm *VM) assemble(cfg *Config, devices []virtio.Device) error {
	shell := cfg.Shell
	if shell == nil {
		var err error
		if shell, err = newShell(cfg.KVM, cfg.VCPUs); err != nil {
			return err
		}
	}
	var err error
	vm.machine, err = machine.New(machine.Config{
		Shell: shell.machine, Memory: vm.memory, VCPUs: cfg.VCPUs, Devices: devices,
		Console: cfg.Console, DeviceStopped: cfg.DeviceStopped,
	})
	if err != nil {
		return errors.Join(err, shell.Close())
	}
	vm.msrs, vm.parts = shell.msrs, devices
	life, over := context.WithCancelCause(context.Background())
	vm.life = life
	vm.watch.Go(func() { vm.awaitEnd(over) })
	return nil
}

func openKVM(f *os.File) (*kvm.System, error) {
	if f == nil {
		return kvm.Open()
	}
	return kvm.OpenFile(f)
}

// devices makes the devices. The disks are the first, so that their place does not depend on the rest.
func (vm *VM) devices(cfg *Config) ([]virtio.Device, error) {
	var all []virtio.Device
	for i, f := range cfg.Disks {
		disk, err := blk.New(blk.Config{Image: f, ID: fmt.Sprintf("disk%d", i)})
		if err != nil {
			return nil, fmt.Errorf("%w: disk %d: %w", ErrConfig, i, err)
		}
		all = append(all, disk)
	}
	var err error
	if vm.socket, err = vsock.New(GuestCID); err != nil {
		return nil, err
	}
	all = append(all, vm.socket, rng.New(), balloon.New(vm.memory.Discard))
	if cfg.Network != nil {
		card, gateway, err := cfg.Network.plug()
		if err != nil {
			return nil, err
		}
		vm.gateway, vm.card = gateway, cfg.Network.settle()
		all = append(all, card)
	}
	return all, nil
}

// load puts into memory what the guest boots from.
func load(mem *guestmem.Memory, b boot.Config, initramfs *os.File, devices int) (_ boot.CPU, err error) {
	if initramfs != nil {
		if b.Initrd, err = blob(initramfs); err != nil {
			return boot.CPU{}, err
		}
	}
	for i := range devices {
		b.Devices = append(b.Devices, boot.DeviceAt(i))
	}
	_, _ = rand.Read(b.GenerationID[:]) // never fails
	cpu, err := boot.Load(mem, b)
	switch {
	case errors.Is(err, boot.ErrConfig), errors.Is(err, boot.ErrNoRoom):
		return boot.CPU{}, fmt.Errorf("%w: %w", ErrConfig, err)
	case err != nil:
		return boot.CPU{}, err
	}
	return cpu, nil
}

func blob(f *os.File) (*io.SectionReader, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrConfig, f.Name())
	}
	return io.NewSectionReader(f, 0, info.Size()), nil
}

// awaitEnd ends what goes on with the guest when it has ended.
func (vm *VM) awaitEnd(over context.CancelCauseFunc) {
	<-vm.machine.Done()
	end, _ := vm.machine.Wait(context.Background())
	over(fmt.Errorf("%w: %s", ErrEnded, endOf(end)))
	// Before its connections end: until then a processor may be about to deliver the guest's last words.
	vm.machine.Stop()
	vm.socket.Reset()
}
