package boot

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/aethervm/aether/internal/guestmem"
)

// The tables of a hardware-reduced platform: no legacy timers, interrupt controllers or power
// management registers, which the guest then does not try to use.

const (
	acpiOEM     = "AETHER"
	acpiOEMName = "AETHERVM"
	acpiCreator = "AEVM"

	tableHeaderSize = 36
	tableAlign      = 16
	rsdpSize        = 36
)

// generationCID is by which drivers find the generation ID. It is longer than an ID may be, but it
// is what the "Virtual Machine Generation ID" specification says.
const generationCID = "VM_Gen_Counter"

// acpiTables returns the content of the memory at acpiAddr: the RSDP and what it leads to.
func acpiTables(vcpus int, devices []Device) ([]byte, error) {
	if vcpus < 1 || vcpus > MaxVCPUs {
		return nil, fmt.Errorf("%w: %d vCPUs; 1 to %d are possible", ErrConfig, vcpus, MaxVCPUs)
	}
	if err := checkDevices(devices); err != nil {
		return nil, err
	}
	var b tableBuilder
	b.image = make([]byte, rsdpSize)
	dsdt := b.add(table("DSDT", 2, dsdtBody(devices)))
	fadt := b.add(table("FACP", 6, fadtBody(dsdt)))
	madt := b.add(table("APIC", 5, madtBody(vcpus)))
	var pointers []byte
	for _, addr := range []uint64{fadt, madt} {
		pointers = binary.LittleEndian.AppendUint64(pointers, addr)
	}
	copy(b.image, rsdp(b.add(table("XSDT", 1, pointers))))
	if len(b.image) > acpiSize {
		return nil, fmt.Errorf("%w: ACPI tables of %d bytes", ErrConfig, len(b.image))
	}
	return b.image, nil
}

func checkDevices(devices []Device) error {
	if len(devices) > MaxDevices {
		return fmt.Errorf("%w: %d devices; %d are possible", ErrConfig, len(devices), MaxDevices)
	}
	for i, d := range devices {
		r := d.Registers
		if r.Size == 0 || r.Size > math.MaxUint32 || r.GPA < guestmem.HoleStart || r.GPA >= guestmem.HoleEnd || r.Size > guestmem.HoleEnd-r.GPA {
			return fmt.Errorf("%w: device %d has registers at %#x, not in the hole below 4 GiB", ErrConfig, i, r.GPA)
		}
		if d.GSI >= IOAPICPins {
			return fmt.Errorf("%w: device %d has GSI %d; the IOAPIC has %d pins", ErrConfig, i, d.GSI, IOAPICPins)
		}
	}
	return nil
}

// tableBuilder lays tables out one after the other from acpiAddr on.
type tableBuilder struct{ image []byte }

// add appends a table and returns its guest-physical address.
func (b *tableBuilder) add(t []byte) uint64 {
	for len(b.image)%tableAlign != 0 {
		b.image = append(b.image, 0)
	}
	addr := acpiAddr + uint64(len(b.image))
	b.image = append(b.image, t...)
	return addr
}

// table puts the common header before a body.
func table(signature string, revision uint8, body []byte) []byte {
	t := make([]byte, tableHeaderSize, tableHeaderSize+len(body))
	copy(t, signature)
	binary.LittleEndian.PutUint32(t[4:], uint32(tableHeaderSize+len(body)))
	t[8] = revision
	copy(t[10:16], acpiOEM)
	copy(t[16:24], acpiOEMName)
	binary.LittleEndian.PutUint32(t[24:], 1) // OEM revision
	copy(t[28:32], acpiCreator)
	binary.LittleEndian.PutUint32(t[32:], 1) // creator revision
	t = append(t, body...)
	t[9] = checksum(t)
	return t
}

// checksum is the byte that makes the sum of all bytes zero.
func checksum(b []byte) byte {
	var sum byte
	for _, v := range b {
		sum += v
	}
	return -sum
}

// rsdp is the root of the tables, revision 2. Its first 20 bytes have a checksum of their own.
func rsdp(xsdt uint64) []byte {
	r := make([]byte, rsdpSize)
	copy(r, "RSD PTR ")
	copy(r[9:15], acpiOEM)
	r[15] = 2
	binary.LittleEndian.PutUint32(r[20:], rsdpSize)
	binary.LittleEndian.PutUint64(r[24:], xsdt)
	r[8] = checksum(r[:20])
	r[32] = checksum(r)
	return r
}

// Fields of the FADT, by their offset in the table, and their values.
const (
	fadtSize          = 276
	fadtDSDT          = 40
	fadtBootArch      = 109
	fadtFlags         = 112
	fadtResetReg      = 116
	fadtResetValue    = 128
	fadtXDSDT         = 140
	fadtSleepControl  = 244
	fadtSleepStatus   = 256
	fadtHypervisor    = 268
	fadtHypervisorTag = "AetherVM"

	bootArchNoVGA = 1 << 2 // nor a keyboard controller, by the absence of its flag
	bootArchNoRTC = 1 << 5

	flagWBINVD       = 1 << 0
	flagPowerButton  = 1 << 4 // no fixed power button,
	flagSleepButton  = 1 << 5 // no fixed sleep button,
	flagFixedRTC     = 1 << 6 // no fixed wake-up by the RTC
	flagResetReg     = 1 << 10
	flagHeadless     = 1 << 12
	flagHWReduced    = 1 << 20
	addressSpaceIO   = 1
	addressByteWidth = 1
)

func fadtBody(dsdt uint64) []byte {
	t := make([]byte, fadtSize)
	le := binary.LittleEndian
	le.PutUint32(t[fadtDSDT:], uint32(dsdt))
	le.PutUint64(t[fadtXDSDT:], dsdt)
	le.PutUint16(t[fadtBootArch:], bootArchNoVGA|bootArchNoRTC)
	le.PutUint32(t[fadtFlags:], flagWBINVD|flagPowerButton|flagSleepButton|flagFixedRTC|flagResetReg|flagHeadless|flagHWReduced)
	copy(t[fadtResetReg:], portRegister(ResetPort))
	t[fadtResetValue] = resetValue
	copy(t[fadtSleepControl:], portRegister(SleepControlPort))
	copy(t[fadtSleepStatus:], portRegister(SleepStatusPort))
	copy(t[fadtHypervisor:], fadtHypervisorTag)
	return t[tableHeaderSize:]
}

// portRegister is a generic address structure for one I/O port.
func portRegister(port uint64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{addressSpaceIO, 8, 0, addressByteWidth}, port)
}

// Entries of the MADT.
const (
	madtLocalAPIC = 0
	madtIOAPIC    = 1
	madtNMI       = 4
	apicEnabled   = 1
	allProcessors = 0xff
	nmiPin        = 1
)

func madtBody(vcpus int) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, LAPICAddr)
	b = le.AppendUint32(b, 0) // flags: there are no 8259 interrupt controllers
	for id := range vcpus {
		b = append(b, madtLocalAPIC, 8, byte(id), byte(id))
		b = le.AppendUint32(b, apicEnabled)
	}
	b = append(b, madtIOAPIC, 12, 0, 0)
	b = le.AppendUint32(b, IOAPICAddr)
	b = le.AppendUint32(b, 0) // its first GSI
	return append(b, madtNMI, 6, allProcessors, 0, 0, nmiPin)
}

// dsdtBody is the machine's devices, as AML.
func dsdtBody(devices []Device) []byte {
	terms := [][]byte{
		amlDeviceOf("COM1",
			amlNamed("_HID", amlEISAID("PNP0501")),
			amlNamed("_UID", amlInteger(0)),
			amlNamed("_CRS", amlResources(resourcePorts(SerialPort, 8), resourceInterrupt(SerialGSI)))),
		amlDeviceOf("VGEN",
			amlNamed("_HID", amlString("AEVM0001")),
			amlNamed("_CID", amlString(generationCID)),
			amlNamed("_DDN", amlString(generationCID)),
			// Two halves of an address.
			amlNamed("ADDR", amlPackageOf(amlInteger(GenerationIDAddr), amlInteger(0)))),
		// A generic event device: its interrupt runs _EVT, which tells the driver of VGEN.
		amlDeviceOf("GED_",
			amlNamed("_HID", amlString("ACPI0013")),
			amlNamed("_UID", amlInteger(0)),
			amlNamed("_CRS", amlResources(resourceInterrupt(GenerationGSI))),
			amlMethodOf("_EVT", 1, amlIfArg0(GenerationGSI, amlNotifyOf("VGEN", 0x80)))),
	}
	for i, d := range devices {
		terms = append(terms, amlDeviceOf(fmt.Sprintf("V%03d", i),
			amlNamed("_HID", amlString("LNRO0005")),
			amlNamed("_UID", amlInteger(uint64(i))),
			amlNamed("_CCA", amlInteger(1)), // DMA is coherent
			amlNamed("_CRS", amlResources(
				resourceMemory(uint32(d.Registers.GPA), uint32(d.Registers.Size)),
				resourceInterrupt(d.GSI)))))
	}
	body := amlInScope("_SB", terms...)
	// Without _S5 the guest does not offer to power off.
	return append(body, amlNamed("_S5", amlPackageOf(
		amlInteger(sleepTypeS5), amlInteger(sleepTypeS5), amlInteger(0), amlInteger(0)))...)
}
