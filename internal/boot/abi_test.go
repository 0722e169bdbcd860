package boot

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/testenv"
)

// The offsets in struct boot_params, against the kernel's own header and a C compiler.
func TestBootParamsABI(t *testing.T) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		testenv.Require(t, "CC", "install gcc and linux-libc-dev")
	}
	fields := []struct {
		c    string
		want int
	}{
		{"acpi_rsdp_addr", paramsACPIRSDP},
		{"e820_entries", paramsE820Entries},
		{"sentinel", 0x1ef},
		{"hdr", hdrStart},
		{"hdr.setup_sects", hdrSetupSects},
		{"hdr.syssize", hdrSysSize},
		{"hdr.boot_flag", hdrBootFlag},
		{"hdr.jump", hdrJump},
		{"hdr.header", hdrMagic},
		{"hdr.version", hdrVersion},
		{"hdr.kernel_version", hdrKernelVersion},
		{"hdr.type_of_loader", hdrTypeOfLoader},
		{"hdr.loadflags", hdrLoadFlags},
		{"hdr.code32_start", hdrCode32Start},
		{"hdr.ramdisk_image", hdrRamdiskImage},
		{"hdr.ramdisk_size", hdrRamdiskSize},
		{"hdr.cmd_line_ptr", hdrCmdLinePtr},
		{"hdr.initrd_addr_max", hdrInitrdAddrMax},
		{"hdr.kernel_alignment", hdrAlignment},
		{"hdr.relocatable_kernel", hdrRelocatable},
		{"hdr.xloadflags", hdrXLoadFlags},
		{"hdr.cmdline_size", hdrCmdlineSize},
		{"hdr.payload_offset", hdrPayloadOffset},
		{"hdr.payload_length", hdrPayloadLength},
		{"hdr.setup_data", hdrSetupData},
		{"hdr.pref_address", hdrPrefAddress},
		{"hdr.init_size", hdrInitSize},
		{"hdr.handover_offset", hdrEnd - 4},
		{"edd_mbr_sig_buffer", hdrLimit},
		{"e820_table", paramsE820Table},
	}
	var c strings.Builder
	c.WriteString("#include <asm/bootparam.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n")
	for _, f := range fields {
		fmt.Fprintf(&c, "printf(\"%s %%zu\\n\", offsetof(struct boot_params, %s));\n", f.c, f.c)
	}
	c.WriteString("printf(\"size %zu\\n\", sizeof(struct boot_params));\n")
	c.WriteString("printf(\"entry %zu\\n\", sizeof(struct boot_e820_entry));\nreturn 0;\n}\n")
	program := filepath.Join(t.TempDir(), "abi")
	build := exec.Command(cc, "-x", "c", "-o", program, "-")
	build.Stdin = strings.NewReader(c.String())
	if out, err := build.CombinedOutput(); err != nil {
		testenv.Require(t, "CC", fmt.Sprintf("%v: %s", err, bytes.TrimSpace(out)))
	}
	out, err := exec.Command(program).Output()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), " ")
		got[name] = value
	}
	check := func(name string, want int) {
		if got[name] != fmt.Sprint(want) {
			t.Errorf("%s: the header has %s, this package %d", name, got[name], want)
		}
	}
	for _, f := range fields {
		check(f.c, f.want)
	}
	check("size", paramsSize)
	check("entry", e820EntrySize)
}
