package boot

// The guest-physical address space below the kernel. A test compares this map with the constants.
//
//	0x00001000 - 0x00001fff  GDT
//	0x00007000 - 0x00007fff  boot parameters
//	0x00008000 - 0x00008fff  stack
//	0x00009000 - 0x0000efff  page tables
//	0x00020000 - 0x00020fff  command line
//	0x0009f000 - 0x000fffff  reserved
//	0x000df000 - 0x000dffff  generation ID
//	0x000e0000 - 0x000fffff  ACPI tables
//	0x00100000 - 0xbfffffff  kernel, initramfs
//	0xd0000000 - 0xd0011fff  virtio-mmio
//	0xfec00000 - 0xfec00fff  IOAPIC
//	0xfee00000 - 0xfee00fff  local APIC
//
// The first page stays zero: Linux reserves it, and reads what a PC's firmware would have left
// there. What lies between it and the command line is used only until the kernel has its own copy;
// Linux then takes the memory for itself, except the reserved part, which the guest's memory map
// (e820) does not offer as RAM.
const (
	gdtAddr        = 0x1000
	gdtSize        = 0x1000
	paramsAddr     = 0x7000
	paramsSize     = 0x1000
	stackAddr      = 0x8000
	stackSize      = 0x1000
	pageTablesAddr = 0x9000
	pageTablesSize = 6 * 0x1000
	cmdlineAddr    = 0x20000
	cmdlineSize    = 0x1000
	reservedAddr   = 0x9f000 // what Linux takes to be the extended BIOS data area if nothing says otherwise
	acpiAddr       = 0xe0000 // where Linux would also search for the RSDP
	acpiSize       = highAddr - acpiAddr
	highAddr       = 0x100000 // where memory goes on after the legacy area
)

// What the ACPI tables tell the guest about the machine, and the machine has to provide.
const (
	// LAPICAddr and IOAPICAddr are the interrupt controllers' usual places. The IOAPIC has ID 0 and
	// IOAPICPins pins, the first of which is GSI 0.
	LAPICAddr  = 0xfee00000
	IOAPICAddr = 0xfec00000
	IOAPICPins = 24
	apicSize   = 0x1000

	// SerialPort is the first of the eight I/O ports of COM1, a 16550, edge triggered.
	SerialPort = 0x3f8
	SerialGSI  = 4

	// Writes of one byte to these I/O ports end the guest. A write with SleepEnable set to
	// SleepControlPort is an orderly power-off (ACPI S5); any write to ResetPort a reboot. Reads of
	// SleepStatusPort give zero; before it powers off, Linux writes to it, which means nothing.
	SleepControlPort = 0x600
	SleepStatusPort  = 0x601
	ResetPort        = 0x602
	SleepEnable      = 1 << 5
	sleepTypeS5      = 5
	resetValue       = 1

	// GenerationIDAddr is where the 16 bytes of the VM's generation ID are. Who changes them then
	// pulses GenerationGSI, edge triggered, which makes a Linux with the vmgenid driver reseed its
	// random number generator.
	GenerationIDAddr = 0xdf000
	GenerationGSI    = 5
	generationSize   = 0x1000

	// Devices get a register window of DeviceSize bytes each from DeviceAddr on, and GSIs from
	// DeviceGSI on, edge triggered: see DeviceAt. The windows are in the hole below 4 GiB, where there
	// is no RAM.
	DeviceAddr = 0xd0000000
	DeviceSize = 0x1000
	DeviceGSI  = 6
	// MaxDevices is how many devices there can be, as each has an IOAPIC pin of its own.
	MaxDevices = IOAPICPins - DeviceGSI

	// MaxVCPUs is how many processors the tables can describe. Their APIC IDs count from 0.
	MaxVCPUs = 8
)
