package boot_test

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/boot/boottest"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/initramfs"
	"github.com/aethervm/aether/internal/kernel"
	"github.com/aethervm/aether/internal/testenv"
)

// What QEMU's microvm machine has, in the terms of this package: its last virtio-mmio transports.
// Its IOAPIC, local APICs and serial port are at the usual places, which AetherVM has chosen as well.
func microvmDevices() []boot.Device {
	var devices []boot.Device
	for i := uint64(6); i < 8; i++ {
		devices = append(devices, boot.Device{
			Registers: guestmem.Range{GPA: 0xfeb00000 + i*0x200, Size: 0x200},
			GSI:       uint32(5 + i),
		})
	}
	return devices
}

// TestLinuxUnderQEMU boots a real kernel with the memory and the registers that Load has made, under
// QEMU's emulation, which needs no KVM. QEMU cannot be given memory as it is; so a small program
// that it can boot carries the memory's content, copies it in place, sets the registers and jumps.
// What the guest then finds, it has from the tables. Powering off is seen as the write to the sleep
// control port, where a debug device ends QEMU with an exit status made of the value.
func TestLinuxUnderQEMU(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		testenv.Require(t, "QEMU", err.Error())
	}
	k := installedKernel(t)
	vmlinux := openBlob(t, k.Vmlinux())
	t.Run("vmlinux", func(t *testing.T) {
		parsed, err := boot.Open(vmlinux)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := parsed.PVHEntry(); !ok {
			t.Error("a distribution's kernel has no PVH note")
		}
		testLinux(t, qemu, k, parsed, 2, 512)
		t.Run("across the hole", func(t *testing.T) { testLinux(t, qemu, k, parsed, 1, 4096) })
	})
	t.Run("self-unpacking", func(t *testing.T) {
		parsed, err := boot.OpenSelfUnpacking(openBlob(t, bzImagePath(t, k.Version)))
		if err != nil {
			t.Fatal(err)
		}
		testLinux(t, qemu, k, parsed, 1, 512)
	})
}

func testLinux(t *testing.T, qemu string, k kernel.Kernel, parsed *boot.Kernel, vcpus, ramMiB int) {
	mem, err := guestmem.New(uint64(ramMiB)<<20, guestmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	// Without KVM's clock and the timers of a PC the guest cannot measure its TSC, so it is told.
	const cmdline = "console=ttyS0 panic=-1 tsc_early_khz=2000000 tsc=reliable aether.test=1"
	cpu, err := boot.Load(mem, boot.Config{
		Kernel: parsed, Initrd: bytes.NewReader(testInitramfs(t, k)), Cmdline: cmdline, VCPUs: vcpus,
		Devices: microvmDevices(), GenerationID: [16]byte{1, 2, 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	writeCarrier(t, image, mem, cpu)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-M", "microvm,acpi=off,pic=off,pit=off,rtc=off,auto-kernel-cmdline=off",
		"-accel", "tcg", "-cpu", "max", "-smp", fmt.Sprint(vcpus), "-m", fmt.Sprint(ramMiB), "-nodefaults", "-no-user-config", "-no-reboot",
		"-display", "none", "-serial", "stdio", "-device", "virtio-rng-device",
		"-device", "isa-debug-exit,iobase=0x600,iosize=1", "-kernel", image)
	out, err := cmd.CombinedOutput()
	console := string(out)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("QEMU: %v\n%s", err, console)
	}
	const wantExit = (5<<2|boot.SleepEnable)<<1 | 1
	if exit.ExitCode() != wantExit {
		t.Errorf("QEMU ended with status %d; a guest that powers off gives %d", exit.ExitCode(), wantExit)
	}
	for _, want := range []string{
		`guest cmdline=` + cmdline,
		fmt.Sprintf(`guest cpus=%d\r`, vcpus),
		`guest virtio=0x0004 driver=virtio_rng`,
		`guest acpi=LNRO0005 .*physical=virtio-mmio`,
		`guest acpi=AEVM0001`,
		`guest acpi=ACPI0013 .*physical=acpi-ged`,
		`guest pnp=PNP0501 driver=serial`,
		`guest hwrng=64 <nil>`,
		// The device's interrupt has arrived on the pin that the DSDT names, edge triggered.
		`guest interrupt=.* [1-9][0-9]* .*IO-APIC 12-edge`,
		`guest done=`,
	} {
		if !regexp.MustCompile(want).MatchString(console) {
			t.Errorf("the guest did not print %q", want)
		}
	}
	// The driver is in Debian's kernels from 6.12 on.
	if !strings.HasPrefix(k.Version, "6.1.") && !regexp.MustCompile("guest acpi=AEVM0001 .*=vmgenid").MatchString(console) {
		t.Error("the driver of the generation ID is not bound")
	}
	var kib int
	if m := regexp.MustCompile(`guest memory=(\d+)`).FindStringSubmatch(console); m != nil {
		kib, _ = strconv.Atoi(m[1])
	}
	if kib < ramMiB*1024*8/10 {
		t.Errorf("the guest has %d KiB of %d MiB", kib, ramMiB)
	}
	for _, bad := range []string{"ACPI Error", "ACPI BIOS Error", "ACPI Warning", "guest error="} {
		if strings.Contains(console, bad) {
			t.Errorf("the guest printed %q", bad)
		}
	}
	if t.Failed() || testing.Verbose() {
		t.Log(console)
	}
}

// installedKernel is the kernel of this host's store that QEMU's guests get; the need is "KERNEL".
func installedKernel(t testing.TB) kernel.Kernel {
	t.Helper()
	state, err := hostdir.State()
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.Default(filepath.Join(state, "kernels"), "qemu-kvm")
	if err != nil {
		testenv.Require(t, "KERNEL", err.Error())
	}
	return k
}

// bzImagePath is a distribution's kernel file of the given version, or of any if that is empty.
func bzImagePath(t *testing.T, version string) string {
	t.Helper()
	candidates, err := filepath.Glob("/boot/vmlinuz-*")
	if err != nil {
		t.Fatal(err)
	}
	if path := os.Getenv(kernel.EnvKernel); path != "" {
		candidates = append(candidates, path)
	}
	for _, path := range candidates {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if v, err := boot.Version(bytes.NewReader(data)); err == nil && (version == "" || v == version) {
			return path
		}
	}
	testenv.Require(t, "BZIMAGE", "no bzImage of version "+version+" in /boot or "+kernel.EnvKernel)
	return ""
}

func openBlob(t testing.TB, path string) boot.Blob {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return io.NewSectionReader(f, 0, info.Size())
}

// testInitramfs has the program in testdata/init and the modules for a virtio device.
func testInitramfs(t *testing.T, k kernel.Kernel) []byte {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "init")
	build := exec.Command("go", "build", "-o", bin, "./testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest's init: %v\n%s", err, out)
	}
	files := []initramfs.File{{Name: "init", Mode: 0o755, Source: bin}}
	var list strings.Builder
	for _, m := range k.Load("virtio_mmio", "virtio_rng") {
		files = append(files, initramfs.File{Name: m.Name, Mode: 0o644, Source: k.ModulePath(m)})
		fmt.Fprintln(&list, m.Name)
	}
	files = append(files, initramfs.File{Name: "modules", Mode: 0o644, Data: []byte(list.String())})
	var b bytes.Buffer
	if err := initramfs.Write(&b, files); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// writeCarrier writes an ELF file with a PVH entry point that recreates the memory and the registers.
func writeCarrier(t *testing.T, path string, mem *guestmem.Memory, cpu boot.CPU) {
	t.Helper()
	if err := mem.Acquire(); err != nil {
		t.Fatal(err)
	}
	defer mem.Release()
	const carrierAddr = 256 << 20 // neither the kernel, at 16 MiB, nor the archive, at the end
	le := binary.LittleEndian

	// Runs of pages with content: around the kernel and at the end of where an archive may be.
	// Looking elsewhere would make the kernel allocate the memory.
	const page = guestmem.PageSize
	archiveEnd := min(mem.Ranges()[0].End(), 2<<30)
	all, err := mem.Slice(0, archiveEnd)
	if err != nil {
		t.Fatal(err)
	}
	var runs []guestmem.Range
	zero := make([]byte, page)
	for _, r := range []guestmem.Range{{Size: carrierAddr}, {GPA: archiveEnd - 32<<20, Size: 32 << 20}} {
		for gpa := r.GPA; gpa < r.End(); gpa += page {
			switch last := len(runs) - 1; {
			case bytes.Equal(all[gpa:gpa+page], zero):
			case last >= 0 && runs[last].End() == gpa:
				runs[last].Size += page
			default:
				runs = append(runs, guestmem.Range{GPA: gpa, Size: page})
			}
		}
	}
	// The carrier: one page of code, one of data, the list of runs, the runs.
	data := uint64(carrierAddr + page)
	list := data + page
	content := (list + uint64(len(runs)+1)*12 + page - 1) &^ (page - 1)
	code := carrierCode(cpu, uint32(carrierAddr), uint32(data), uint32(list))
	body := make([]byte, content-carrierAddr)
	copy(body, code)
	copy(body[page:], tableRegister(cpu.GDT))
	copy(body[page+8:], tableRegister(cpu.IDT))
	for i, r := range runs {
		at := body[list-carrierAddr+uint64(i)*12:]
		le.PutUint32(at, uint32(carrierAddr+len(body)))
		le.PutUint32(at[4:], uint32(r.GPA))
		le.PutUint32(at[8:], uint32(r.Size/4))
		body = append(body, all[r.GPA:r.End()]...)
	}
	if last := runs[len(runs)-1].GPA; carrierAddr+uint64(len(body)) > last {
		t.Fatalf("the carrier of %d bytes reaches the memory at %#x", len(body), last)
	}
	note := boottest.PVHNote(carrierAddr)
	file := boottest.ELF(carrierAddr,
		boottest.Part{Type: elf.PT_LOAD, GPA: carrierAddr, Data: body}, boottest.Part{Type: elf.PT_NOTE, Data: note})
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
}

func tableRegister(r boot.Table) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint16(nil, r.Limit), uint32(r.Base))
}

// carrierCode starts in 32-bit protected mode without paging, as PVH does.
func carrierCode(cpu boot.CPU, addr, data, list uint32) []byte {
	var c []byte
	emit := func(op ...byte) { c = append(c, op...) }
	imm32 := func(v uint32, op ...byte) { c = binary.LittleEndian.AppendUint32(append(c, op...), v) }
	emit(0xfa, 0xfc)                         // cli; cld
	imm32(list, 0xbd)                        // mov $list, %ebp
	emit(0x8b, 0x4d, 0x08)                   // 1: mov 8(%ebp), %ecx
	emit(0xe3, 0x0d)                         // jecxz 2f
	emit(0x8b, 0x75, 0x00)                   // mov (%ebp), %esi
	emit(0x8b, 0x7d, 0x04)                   // mov 4(%ebp), %edi
	emit(0xf3, 0xa5)                         // rep movsl
	emit(0x83, 0xc5, 0x0c)                   // add $12, %ebp
	emit(0xeb, 0xee)                         // jmp 1b
	imm32(data, 0x0f, 0x01, 0x15)            // 2: lgdt data
	imm32(data+8, 0x0f, 0x01, 0x1d)          // lidt data+8
	imm32(uint32(cpu.CR4), 0xb8)             // mov $cr4, %eax
	emit(0x0f, 0x22, 0xe0)                   // mov %eax, %cr4
	imm32(uint32(cpu.CR3), 0xb8)             // mov $cr3, %eax
	emit(0x0f, 0x22, 0xd8)                   // mov %eax, %cr3
	imm32(0xc0000080, 0xb9)                  // mov $EFER, %ecx
	imm32(uint32(cpu.EFER)&^(1<<10), 0xb8)   // mov $efer, %eax; the processor sets LMA itself
	emit(0x31, 0xd2, 0x0f, 0x30)             // xor %edx, %edx; wrmsr
	imm32(uint32(cpu.CR0), 0xb8)             // mov $cr0, %eax
	emit(0x0f, 0x22, 0xc0)                   // mov %eax, %cr0
	imm32(addr+uint32(len(c))+7, 0xea)       // ljmp $cs, $3f
	emit(byte(cpu.CS.Selector), 0)           //
	imm32(uint32(cpu.DS.Selector), 0xb8)     // 3: mov $ds, %eax
	emit(0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0) // mov %eax, %ds; %es; %ss
	emit(0x8e, 0xe0, 0x8e, 0xe8)             // %fs; %gs
	imm32(uint32(cpu.RSP), 0xbc)             // mov $rsp, %esp
	imm32(uint32(cpu.RFLAGS), 0x68)          // push $rflags
	emit(0x9d)                               // popf
	imm32(uint32(cpu.RSI), 0xbe)             // mov $rsi, %esi
	imm32(uint32(cpu.RIP), 0xb8)             // mov $rip, %eax
	emit(0x31, 0xc9, 0x31, 0xed, 0x31, 0xff) // xor %ecx, %ecx; %ebp; %edi
	emit(0xff, 0xe0)                         // jmp *%rax
	return c
}
