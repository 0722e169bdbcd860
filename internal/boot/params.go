package boot

import (
	"encoding/binary"
	"fmt"

	"github.com/aethervm/aether/internal/guestmem"
)

// Fields of struct boot_params outside the setup header.
const (
	paramsACPIRSDP    = 0x070
	paramsE820Entries = 0x1e8
	paramsE820Table   = 0x2d0
	e820EntrySize     = 20
)

// typeOfLoader is the ID of boot loaders that have none assigned.
const typeOfLoader = 0xff

type e820Type uint32

const (
	e820RAM      e820Type = 1
	e820Reserved e820Type = 2
)

type e820Entry struct {
	guestmem.Range
	Type e820Type
}

// memoryMap describes RAM to the guest. The hole below 4 GiB is left out, as free address space for
// devices.
func memoryMap(ram []guestmem.Range) ([]e820Entry, error) {
	low := ram[0]
	if low.GPA != 0 || low.Size <= highAddr {
		return nil, fmt.Errorf("%w: RAM from %#x to %#x", ErrNoRoom, low.GPA, low.End())
	}
	entries := []e820Entry{
		{guestmem.Range{GPA: 0, Size: reservedAddr}, e820RAM},
		{guestmem.Range{GPA: reservedAddr, Size: highAddr - reservedAddr}, e820Reserved},
		{guestmem.Range{GPA: highAddr, Size: low.Size - highAddr}, e820RAM},
	}
	for _, r := range ram[1:] {
		entries = append(entries, e820Entry{r, e820RAM})
	}
	return entries, nil
}

// bootParams is what the kernel is told beside the tables: struct boot_params, the "zero page".
func bootParams(k *Kernel, e820 []e820Entry, initrd guestmem.Range) []byte {
	p := make([]byte, paramsSize)
	le := binary.LittleEndian
	if k.header != nil {
		copy(p[hdrStart:], k.header)
		// A list of further parameters, by physical address. A file has no business to name one.
		le.PutUint64(p[hdrSetupData:], 0)
	} else {
		le.PutUint16(p[hdrBootFlag:], bootFlag)
		copy(p[hdrMagic:], headerText)
		// Zero would mean that there are no boot parameters at all.
		le.PutUint16(p[hdrVersion:], defaultProtocol)
		p[hdrLoadFlags] = loadedHigh
		le.PutUint32(p[hdrInitrdAddrMax:], defaultInitrdAddrMax)
		le.PutUint32(p[hdrAlignment:], defaultAlignment)
		p[hdrRelocatable] = 1
		le.PutUint16(p[hdrXLoadFlags:], xlfKernel)
		le.PutUint32(p[hdrCmdlineSize:], defaultCmdlineSize)
	}
	p[hdrTypeOfLoader] = typeOfLoader
	le.PutUint32(p[hdrCode32Start:], uint32(k.span.GPA))
	le.PutUint32(p[hdrCmdLinePtr:], cmdlineAddr)
	// Both below 4 GiB, so the fields for the upper halves stay zero.
	le.PutUint32(p[hdrRamdiskImage:], uint32(initrd.GPA))
	le.PutUint32(p[hdrRamdiskSize:], uint32(initrd.Size))

	le.PutUint64(p[paramsACPIRSDP:], acpiAddr)
	p[paramsE820Entries] = uint8(len(e820))
	for i, e := range e820 {
		at := p[paramsE820Table+i*e820EntrySize:]
		le.PutUint64(at, e.GPA)
		le.PutUint64(at[8:], e.Size)
		le.PutUint32(at[16:], uint32(e.Type))
	}
	return p
}
