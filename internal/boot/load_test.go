package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/boot/boottest"
	"github.com/aethervm/aether/internal/guestmem"
)

// lowMemory are the constants that the map in layout.go draws.
var lowMemory = map[string]guestmem.Range{
	"GDT":               {GPA: gdtAddr, Size: gdtSize},
	"boot parameters":   {GPA: paramsAddr, Size: paramsSize},
	"stack":             {GPA: stackAddr, Size: stackSize},
	"page tables":       {GPA: pageTablesAddr, Size: pageTablesSize},
	"command line":      {GPA: cmdlineAddr, Size: cmdlineSize},
	"reserved":          {GPA: reservedAddr, Size: highAddr - reservedAddr},
	"generation ID":     {GPA: GenerationIDAddr, Size: generationSize},
	"ACPI tables":       {GPA: acpiAddr, Size: acpiSize},
	"kernel, initramfs": {GPA: highAddr, Size: guestmem.HoleStart - highAddr},
	"virtio-mmio":       {GPA: DeviceAddr, Size: MaxDevices * DeviceSize},
	"IOAPIC":            {GPA: IOAPICAddr, Size: apicSize},
	"local APIC":        {GPA: LAPICAddr, Size: apicSize},
}

func TestLayoutMap(t *testing.T) {
	source, err := os.ReadFile("layout.go")
	if err != nil {
		t.Fatal(err)
	}
	drawn := map[string]guestmem.Range{}
	for _, m := range regexp.MustCompile(`(?m)^//\t0x([0-9a-f]+) - 0x([0-9a-f]+)  (.+)$`).FindAllStringSubmatch(string(source), -1) {
		first, err1 := strconv.ParseUint(m[1], 16, 64)
		last, err2 := strconv.ParseUint(m[2], 16, 64)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		drawn[m[3]] = guestmem.Range{GPA: first, Size: last - first + 1}
	}
	for name, r := range lowMemory {
		if drawn[name] != r {
			t.Errorf("the map has %s at %#x, the constants %#x", name, drawn[name], r)
		}
	}
	if len(drawn) != len(lowMemory) {
		t.Errorf("the map has %d entries, this test %d", len(drawn), len(lowMemory))
	}
	for a, ra := range lowMemory {
		for b, rb := range lowMemory {
			if a < b && a != "reserved" && b != "reserved" && ra.GPA < rb.End() && rb.GPA < ra.End() {
				t.Errorf("%s at %#x overlaps %s at %#x", a, ra, b, rb)
			}
		}
		// What must outlive the kernel's start is in memory that the kernel does not take.
		if a == "generation ID" || a == "ACPI tables" {
			if r := lowMemory["reserved"]; ra.GPA < r.GPA || ra.End() > r.End() {
				t.Errorf("%s is not in reserved memory", a)
			}
		}
		if ra.GPA%guestmem.PageSize != 0 || ra.GPA == 0 {
			t.Errorf("%s starts at %#x", a, ra.GPA)
		}
	}
	if HighestGSI := DeviceAt(MaxDevices - 1).GSI; HighestGSI != IOAPICPins-1 {
		t.Errorf("the last device has GSI %d", HighestGSI)
	}
}

func openSynth(t testing.TB) *Kernel {
	t.Helper()
	k, err := Open(bytes.NewReader(boottest.BzImage(synthVersion, boottest.Zstd(boottest.Vmlinux()))))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// params reads what a kernel would read.
type params struct{ page []byte }

func readParams(t testing.TB, mem *guestmem.Memory, addr uint64) params {
	t.Helper()
	p := params{make([]byte, paramsSize)}
	if err := mem.ReadAt(p.page, addr); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p params) u32(off int) uint64 { return uint64(binary.LittleEndian.Uint32(p.page[off:])) }

func (p params) e820() []e820Entry {
	var entries []e820Entry
	for i := range int(p.page[paramsE820Entries]) {
		e := p.page[paramsE820Table+i*e820EntrySize:]
		entries = append(entries, e820Entry{
			guestmem.Range{GPA: binary.LittleEndian.Uint64(e), Size: binary.LittleEndian.Uint64(e[8:])},
			e820Type(binary.LittleEndian.Uint32(e[16:])),
		})
	}
	return entries
}

// For many sizes of RAM and of the archive: all that is loaded is in RAM that the guest knows about,
// nothing overlaps, and the pointers lead to it.
func TestLoad(t *testing.T) {
	const mib = 1 << 20
	k := openSynth(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, ram := range []uint64{64 * mib, 65*mib + guestmem.PageSize, 512 * mib, 3072 * mib, 3072*mib + guestmem.PageSize, 4096 * mib, 9000 * mib} {
		mem := newRAM(t, ram)
		for _, size := range []int{0, 1, guestmem.PageSize, guestmem.PageSize + 1, rng.IntN(4 * mib)} {
			initrd := bytes.Repeat([]byte{0xc5}, size)
			cpu, err := Load(mem, Config{
				Kernel: k, Initrd: bytes.NewReader(initrd), Cmdline: "console=ttyS0 x=y", VCPUs: 3,
				Devices: []Device{DeviceAt(0), DeviceAt(MaxDevices - 1)}, GenerationID: [16]byte{15: 9},
			})
			if err != nil {
				t.Fatalf("%d bytes of RAM, archive of %d: %v", ram, size, err)
			}
			p := readParams(t, mem, cpu.RSI)
			archive := guestmem.Range{GPA: p.u32(hdrRamdiskImage), Size: p.u32(hdrRamdiskSize)}
			if archive.Size != uint64(size) || archive.GPA%guestmem.PageSize != 0 {
				t.Fatalf("archive of %d bytes at %#x", size, archive)
			}
			got := make([]byte, size)
			if err := mem.ReadAt(got, archive.GPA); err != nil || !bytes.Equal(got, initrd) {
				t.Fatalf("archive of %d bytes at %#x: %v", size, archive.GPA, err)
			}
			// The gap after the archive is less than a page.
			if end := min(ram, 2048*mib); size > 0 && end-archive.End() >= guestmem.PageSize {
				t.Errorf("archive ends at %#x, not at %#x", archive.End(), end)
			}
			if size > 0 && archive.GPA < k.Span().End() {
				t.Errorf("archive at %#x overlaps the kernel at %#x", archive.GPA, k.Span())
			}
			checkMemoryMap(t, p.e820(), ram, []guestmem.Range{k.Span(), archive})
			wantText(t, mem, p.u32(hdrCmdLinePtr), "console=ttyS0 x=y\x00")
			wantText(t, mem, GenerationIDAddr, string([]byte{15: 9}))
			wantText(t, mem, binary.LittleEndian.Uint64(p.page[paramsACPIRSDP:]), "RSD PTR ")
			if p.u32(hdrSetupData) != 0 || p.page[hdrTypeOfLoader] != 0xff {
				t.Error("the file's list of set-up data or loader was kept")
			}
			if cpu.RIP != boottest.Addr {
				t.Errorf("RIP %#x", cpu.RIP)
			}
		}
	}
}

func wantText(t *testing.T, mem *guestmem.Memory, gpa uint64, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if err := mem.ReadAt(got, gpa); err != nil || string(got) != want {
		t.Errorf("at %#x: %q, %v, want %q", gpa, got, err, want)
	}
}

func checkMemoryMap(t *testing.T, e820 []e820Entry, ram uint64, used []guestmem.Range) {
	t.Helper()
	var total, last uint64
	for _, e := range e820 {
		if e.GPA < last || e.Size == 0 {
			t.Errorf("memory map is not ascending at %#x", e.GPA)
		}
		last = e.End()
		total += e.Size
		if e.GPA < guestmem.HoleEnd && e.End() > guestmem.HoleStart {
			t.Errorf("memory map has %#x in the hole", e)
		}
	}
	if total != ram {
		t.Errorf("memory map has %d bytes, RAM %d", total, ram)
	}
	for _, r := range used {
		inside := r.Size == 0
		for _, e := range e820 {
			inside = inside || e.Type == e820RAM && r.GPA >= e.GPA && r.End() <= e.End()
		}
		if !inside {
			t.Errorf("%#x is not in RAM", r)
		}
	}
	for _, name := range []string{"generation ID", "ACPI tables"} {
		for _, e := range e820 {
			if r := lowMemory[name]; e.Type == e820RAM && r.GPA < e.End() && e.GPA < r.End() {
				t.Errorf("%s is given to the kernel as RAM", name)
			}
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	k := openSynth(t)
	devices := make([]Device, MaxDevices+1)
	for i := range devices {
		devices[i] = DeviceAt(0)
	}
	at := func(gpa, size uint64, gsi uint32) []Device {
		return []Device{{Registers: guestmem.Range{GPA: gpa, Size: size}, GSI: gsi}}
	}
	for name, tc := range map[string]struct {
		cfg  Config
		want error
	}{
		"no kernel":        {Config{VCPUs: 1}, ErrConfig},
		"no vCPU":          {Config{Kernel: k}, ErrConfig},
		"too many vCPUs":   {Config{Kernel: k, VCPUs: MaxVCPUs + 1}, ErrConfig},
		"command line":     {Config{Kernel: k, VCPUs: 1, Cmdline: strings.Repeat("x", 2048)}, ErrConfig},
		"zero in it":       {Config{Kernel: k, VCPUs: 1, Cmdline: "a\x00b"}, ErrConfig},
		"too many devices": {Config{Kernel: k, VCPUs: 1, Devices: devices}, ErrConfig},
		"device in RAM":    {Config{Kernel: k, VCPUs: 1, Devices: at(0x1000, 0x1000, 9)}, ErrConfig},
		"device at 4 GiB":  {Config{Kernel: k, VCPUs: 1, Devices: at(guestmem.HoleEnd-0x800, 0x1000, 9)}, ErrConfig},
		"device overflows": {Config{Kernel: k, VCPUs: 1, Devices: at(DeviceAddr, ^uint64(0), 9)}, ErrConfig},
		"GSI":              {Config{Kernel: k, VCPUs: 1, Devices: at(DeviceAddr, 0x1000, IOAPICPins)}, ErrConfig},
		"archive":          {Config{Kernel: k, VCPUs: 1, Initrd: bytes.NewReader(make([]byte, 46<<20))}, ErrNoRoom},
	} {
		if cpu, err := Load(newRAM(t, 64<<20), tc.cfg); !errors.Is(err, tc.want) || cpu != (CPU{}) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	longest := Config{Kernel: k, VCPUs: MaxVCPUs, Cmdline: strings.Repeat("x", 2047), Devices: devices[:MaxDevices]}
	if _, err := Load(newRAM(t, 64<<20), longest); err != nil {
		t.Errorf("the largest configuration: %v", err)
	}
	for _, ram := range []uint64{guestmem.PageSize, highAddr, 16 << 20} {
		if _, err := Load(newRAM(t, ram), Config{Kernel: k, VCPUs: 1}); !errors.Is(err, ErrNoRoom) {
			t.Errorf("%d bytes of RAM: %v", ram, err)
		}
	}
	mem := newRAM(t, 64<<20)
	if err := mem.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(mem, Config{Kernel: k, VCPUs: 1}); !errors.Is(err, guestmem.ErrClosed) {
		t.Errorf("closed memory: %v", err)
	}
}

// A kernel without a setup header gets one that says what it must.
func TestParamsOfVmlinux(t *testing.T) {
	k, err := Open(bytes.NewReader(boottest.Vmlinux()))
	if err != nil {
		t.Fatal(err)
	}
	mem := newRAM(t, 64<<20)
	cpu, err := Load(mem, Config{Kernel: k, VCPUs: 1, Cmdline: "quiet"})
	if err != nil {
		t.Fatal(err)
	}
	p := readParams(t, mem, cpu.RSI)
	if string(p.page[hdrMagic:hdrMagic+4]) != "HdrS" || p.u32(hdrVersion)&0xffff < minProtocol || p.page[hdrLoadFlags]&loadedHigh == 0 {
		t.Errorf("setup header % x", p.page[hdrStart:hdrEnd])
	}
	if p.page[0x1ef] != 0 {
		t.Error("the sentinel is set: the kernel would throw the parameters away")
	}
	wantText(t, mem, p.u32(hdrCmdLinePtr), "quiet\x00")
}

func TestPlaceBelow(t *testing.T) {
	for _, tc := range []struct {
		first, end uint64
		size       int64
		want       uint64 // 0: does not fit
	}{
		{0x1000, 0x5000, 0x1000, 0x4000},
		{0x1000, 0x5000, 0x1001, 0x3000},
		{0x1000, 0x5000, 0x4000, 0x1000},
		{0x1001, 0x5000, 0x4000, 0},
		{0x1001, 0x5000, 0x3fff, 0},
		{0x1001, 0x5000, 0x3000, 0x2000},
		{0x5000, 0x1000, 1, 0},
		{0x1000, 0x5000, -1, 0},
		{0x1000, 0x5000, 1<<63 - 1, 0},
	} {
		got, err := placeBelow(tc.first, tc.end, tc.size)
		if got.GPA != tc.want || (err == nil) != (tc.want != 0) {
			t.Errorf("%#x bytes from %#x to %#x: %#x, %v, want %#x", tc.size, tc.first, tc.end, got, err, tc.want)
		}
	}
}
