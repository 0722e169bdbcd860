package boot

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/testenv"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func testTables(t testing.TB) []byte {
	t.Helper()
	image, err := acpiTables(2, []Device{DeviceAt(0), DeviceAt(1)})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// findTables follows the pointers as a guest does, and checks every header and checksum on the way.
func findTables(t *testing.T, image []byte) map[string][]byte {
	t.Helper()
	le := binary.LittleEndian
	sum := func(b []byte) (s byte) {
		for _, v := range b {
			s += v
		}
		return s
	}
	if string(image[:8]) != "RSD PTR " || sum(image[:20]) != 0 || sum(image[:36]) != 0 || image[15] != 2 {
		t.Fatalf("RSDP % x", image[:36])
	}
	tables := map[string][]byte{}
	follow := func(addr uint64) []byte {
		t.Helper()
		off := addr - acpiAddr
		if addr < acpiAddr || off+tableHeaderSize > uint64(len(image)) {
			t.Fatalf("a pointer to %#x", addr)
		}
		size := uint64(le.Uint32(image[off+4:]))
		if size < tableHeaderSize || off+size > uint64(len(image)) {
			t.Fatalf("table at %#x of %d bytes", addr, size)
		}
		table := image[off : off+size]
		if sum(table) != 0 {
			t.Errorf("checksum of %s", table[:4])
		}
		tables[string(table[:4])] = table
		return table
	}
	xsdt := follow(le.Uint64(image[24:]))
	for p := xsdt[tableHeaderSize:]; len(p) > 0; p = p[8:] {
		if table := follow(le.Uint64(p)); string(table[:4]) == "FACP" {
			if dsdt := le.Uint64(table[fadtXDSDT:]); dsdt != uint64(le.Uint32(table[fadtDSDT:])) {
				t.Errorf("two DSDTs")
			} else {
				follow(dsdt)
			}
		}
	}
	return tables
}

func TestACPITables(t *testing.T) {
	tables := findTables(t, testTables(t))
	for _, want := range []string{"XSDT", "FACP", "DSDT", "APIC"} {
		if tables[want] == nil {
			t.Errorf("no %s", want)
		}
	}
	if fadt := tables["FACP"]; len(fadt) != fadtSize || binary.LittleEndian.Uint32(fadt[fadtFlags:])&flagHWReduced == 0 {
		t.Errorf("FADT of %d bytes % x", len(fadt), fadt)
	}
	madt := tables["APIC"][tableHeaderSize:]
	lapics := 0
	for p := madt[8:]; len(p) > 0; p = p[p[1]:] {
		if p[0] == madtLocalAPIC {
			if int(p[2]) != lapics || int(p[3]) != lapics {
				t.Errorf("local APIC %d: % x", lapics, p[:8])
			}
			lapics++
		}
	}
	if lapics != 2 {
		t.Errorf("%d local APICs", lapics)
	}
}

// The tables byte by byte, as files that `iasl -d` makes readable.
func TestACPIGolden(t *testing.T) {
	tables := findTables(t, testTables(t))
	for name, table := range tables {
		if name == "XSDT" {
			continue // its content is addresses
		}
		path := filepath.Join("testdata", strings.ToLower(name)+".aml")
		if *update {
			if err := os.WriteFile(path, table, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(table, want) {
			t.Errorf("%s differs from %s; see what iasl -d says of both, then run with -update", name, path)
		}
	}
}

// TestACPIWithIASL has Intel's compiler read the tables, and compile the DSDT's disassembly again.
func TestACPIWithIASL(t *testing.T) {
	iasl, err := exec.LookPath("iasl")
	if err != nil {
		testenv.Require(t, "IASL", "install acpica-tools")
	}
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(iasl, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("iasl %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for name, table := range findTables(t, testTables(t)) {
		if err := os.WriteFile(filepath.Join(dir, name+".aml"), table, 0o600); err != nil {
			t.Fatal(err)
		}
		out := run("-d", name+".aml")
		text, err := os.ReadFile(filepath.Join(dir, name+".dsl"))
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"Invalid", "Error", "Warning", "Unknown", "Incorrect"} {
			if strings.Contains(out, bad) || strings.Contains(string(text), bad) {
				t.Errorf("%s: iasl says %q:\n%s\n%s", name, bad, out, text)
			}
		}
		for _, want := range map[string][]string{
			"DSDT": {
				`Device \(COM1\)[^}]*EisaId \("PNP0501"\)`,
				`IO \(Decode16,\s*0x03F8,[^\n]*\n\s*0x03F8,[^\n]*\n\s*0x01,[^\n]*\n\s*0x08,`,
				`Name \(_CID, "VM_Gen_Counter"\)`,
				`Name \(ADDR, Package \(0x02\)[^{]*\{\s*0x000DF000,\s*Zero`,
				`If \(\(Arg0 == 0x05\)\)\s*\{\s*Notify \(VGEN, 0x80\)`,
				`Device \(V001\)[^}]*"LNRO0005"`,
				`Memory32Fixed \(ReadWrite,\s*0xD0001000,[^\n]*\n\s*0x00001000,`,
				`Interrupt \(ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, \)\s*\{\s*0x00000007,`,
				`Name \(\\?_S5, Package`,
			},
			"FACP": {`Hardware Reduced \(V5\) : 1`, `8042 Present[^:]*: 0`, `CMOS RTC Not Present[^:]*: 1`, `Reset Register Supported[^:]*: 1`},
			"APIC": {`Processor Local APIC`, `I/O APIC`, `Address : FEC00000`, `Processor Enabled : 1`},
		}[name] {
			if !regexp.MustCompile(want).Match(text) {
				t.Errorf("%s has no %s:\n%s", name, want, text)
			}
		}
	}
	if out := run("-p", "again", "DSDT.dsl"); !strings.Contains(out, "0 Errors, 0 Warnings") {
		t.Errorf("compiling the DSDT's disassembly: %s", out)
	}
	again, err := os.ReadFile(filepath.Join(dir, "again.aml"))
	if err != nil {
		t.Fatal(err)
	}
	// The header names the compiler; the rest is the same code.
	if dsdt := findTables(t, testTables(t))["DSDT"]; !bytes.Equal(again[tableHeaderSize:], dsdt[tableHeaderSize:]) {
		t.Errorf("iasl encodes the DSDT otherwise:\n% x\n% x", again, dsdt)
	}
}

// TestGenerationEvent runs _EVT in the interpreter that Linux has: the event's interrupt, and no
// other, notifies the device with the generation ID.
func TestGenerationEvent(t *testing.T) {
	acpiexec, err := exec.LookPath("acpiexec")
	if err != nil {
		testenv.Require(t, "IASL", "install acpica-tools")
	}
	path := filepath.Join(t.TempDir(), "dsdt.aml")
	if err := os.WriteFile(path, findTables(t, testTables(t))["DSDT"], 0o600); err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for gsi := range IOAPICPins {
		fmt.Fprintf(&script, "evaluate \\_SB.GED._EVT %d; ", gsi)
	}
	out, err := exec.Command(acpiexec, "-b", script.String(), path).CombinedOutput()
	if err != nil {
		t.Fatalf("acpiexec: %v\n%s", err, out)
	}
	runs := strings.Split(string(out), "Evaluating ")[1:]
	if len(runs) != IOAPICPins {
		t.Fatalf("%d evaluations of _EVT:\n%s", len(runs), out)
	}
	for gsi, run := range runs {
		notified := strings.Contains(run, "Received a Device Notify on [VGEN]")
		if notified != (gsi == GenerationGSI) {
			t.Errorf("GSI %d: notified %v\n%s", gsi, notified, run)
		}
	}
}
