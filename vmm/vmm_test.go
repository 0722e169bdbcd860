package vmm_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/aethervm/aether/internal/boot/boottest"
	"github.com/aethervm/aether/vmm"
)

func write(t *testing.T, content []byte) (name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestNewRefuses(t *testing.T) {
	open := func(content []byte) *os.File {
		f, err := os.Open(write(t, content))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	kernel, notKernel := open(boottest.Vmlinux()), open(make([]byte, 4096))
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for name, c := range map[string]struct {
		change func(*vmm.Config)
		want   error
	}{
		"no kernel":        {func(c *vmm.Config) { c.Kernel = nil }, vmm.ErrConfig},
		"no vCPU":          {func(c *vmm.Config) { c.VCPUs = 0 }, vmm.ErrConfig},
		"many vCPUs":       {func(c *vmm.Config) { c.VCPUs = vmm.MaxVCPUs + 1 }, vmm.ErrConfig},
		"little memory":    {func(c *vmm.Config) { c.MemoryMiB = vmm.MinMemoryMiB - 1 }, vmm.ErrConfig},
		"too much memory":  {func(c *vmm.Config) { c.MemoryMiB = vmm.MaxMemoryMiB + 1 }, vmm.ErrConfig},
		"many disks":       {func(c *vmm.Config) { c.Disks = make([]*os.File, vmm.MaxDisks+1) }, vmm.ErrConfig},
		"missing disk":     {func(c *vmm.Config) { c.Disks = make([]*os.File, 1) }, vmm.ErrConfig},
		"disk is a device": {func(c *vmm.Config) { c.Disks = []*os.File{null} }, vmm.ErrConfig},
		"kernel: a device": {func(c *vmm.Config) { c.Kernel = null }, vmm.ErrConfig},
		"initramfs device": {func(c *vmm.Config) { c.Initramfs = null }, vmm.ErrConfig},
		"not a kernel":     {func(c *vmm.Config) { c.Kernel = notKernel }, vmm.ErrKernel},
		"network: gateway elsewhere": {func(c *vmm.Config) {
			c.Network = &vmm.Network{Interface: vmm.Interface{
				Address: netip.MustParsePrefix("10.1.0.2/24"), Gateway: netip.MustParseAddr("10.2.0.1")}}
		}, vmm.ErrConfig},
		"network: one address": {func(c *vmm.Config) {
			c.Network = &vmm.Network{Interface: vmm.Interface{Address: netip.MustParsePrefix("10.1.0.2/24")}}
		}, vmm.ErrConfig},
		"network: IPv6": {func(c *vmm.Config) {
			c.Network = &vmm.Network{Interface: vmm.Interface{
				Address: netip.MustParsePrefix("fd00::2/64"), Gateway: netip.MustParseAddr("fd00::1")}}
		}, vmm.ErrConfig},
		"network: group MAC": {func(c *vmm.Config) {
			c.Network = &vmm.Network{Interface: vmm.Interface{MAC: [6]byte{1}}}
		}, vmm.ErrConfig},
		"network: rule": {func(c *vmm.Config) { c.Network = &vmm.Network{Allow: []vmm.Rule{{}}} }, vmm.ErrConfig},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := vmm.Config{Kernel: kernel, VCPUs: 1, MemoryMiB: vmm.MinMemoryMiB}
			c.change(&cfg)
			vm, err := vmm.New(cfg)
			if vm != nil || !errors.Is(err, c.want) {
				t.Errorf("got %v, %v", vm, err)
			}
		})
	}
}
