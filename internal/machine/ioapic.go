package machine

import (
	"encoding/binary"
	"sync"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/kvm"
)

// ioapic is an I/O APIC (82093AA) of whose pins only edges count: a pulse on a pin is one interrupt,
// whatever trigger mode the guest has chosen, so that there is no end of interrupt to wait for.
type ioapic struct {
	signal func(kvm.MSI)

	mu       sync.Mutex
	selected uint8
	id       uint32
	entries  [boot.IOAPICPins]uint64
	pending  [boot.IOAPICPins]bool // pulses on masked pins
}

// Offsets in the register window, and the registers that are reached through it.
const (
	ioapicSelect = 0x00
	ioapicWindow = 0x10

	ioapicID          = 0x00
	ioapicVersion     = 0x01
	ioapicArbitration = 0x02
	ioapicEntries     = 0x10 // two a pin

	ioapicVersionValue = 0x11 | (boot.IOAPICPins-1)<<16
	ioapicIDMask       = 0xf << 24
)

// Fields of a redirection entry.
const (
	entryVector      = 0xff
	entryDelivery    = 7 << 8
	entryLogical     = 1 << 11
	entryReadOnly    = 1<<12 | 1<<14 // delivery status and remote IRR, which are always zero here
	entryMasked      = 1 << 16
	entryDestination = 56
)

// Fields of a message: Intel SDM volume 3A, section 11.11.
const (
	msiAddress     = boot.LAPICAddr
	msiDestination = 12
	msiLogical     = 1 << 2
)

func newIOAPIC(signal func(kvm.MSI)) *ioapic {
	a := &ioapic{signal: signal}
	for pin := range a.entries {
		a.entries[pin] = entryMasked
	}
	return a
}

// pulse raises and lowers a pin. A pulse on a masked pin is remembered: the real device would lose
// it, but the guest's driver would then wait for ever for what its device has said once.
func (a *ioapic) pulse(pin uint32) {
	if pin >= boot.IOAPICPins {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending[pin] = true
	a.deliver(int(pin))
}

// deliver sends a pin's interrupt if it can. The caller holds a.mu, so that interrupts of one pin
// and changes of its entry have an order.
func (a *ioapic) deliver(pin int) {
	e := a.entries[pin]
	if !a.pending[pin] || e&entryMasked != 0 {
		return
	}
	a.pending[pin] = false
	msi := kvm.MSI{
		Address: msiAddress | e>>entryDestination<<msiDestination,
		Data:    uint32(e & (entryVector | entryDelivery)),
	}
	if e&entryLogical != 0 {
		msi.Address |= msiLogical
	}
	a.signal(msi)
}

// Read is a read of the guest at an offset in the window.
func (a *ioapic) Read(off uint64, p []byte) {
	clear(p)
	if len(p) < 4 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var v uint32
	switch off {
	case ioapicSelect:
		v = uint32(a.selected)
	case ioapicWindow:
		v = a.read()
	}
	binary.LittleEndian.PutUint32(p, v)
}

func (a *ioapic) read() uint32 {
	switch a.selected {
	case ioapicID, ioapicArbitration:
		return a.id
	case ioapicVersion:
		return ioapicVersionValue
	}
	if pin, high, ok := a.entry(); ok {
		return uint32(a.entries[pin] >> high)
	}
	return 0
}

// entry is the pin of the selected half of a redirection entry, and that half's place.
func (a *ioapic) entry() (pin, high int, ok bool) {
	n := int(a.selected) - ioapicEntries
	if n < 0 || n >= 2*boot.IOAPICPins {
		return 0, 0, false
	}
	return n / 2, n % 2 * 32, true
}

// Write is a write of the guest at an offset in the window.
func (a *ioapic) Write(off uint64, p []byte) {
	if len(p) < 4 {
		return
	}
	v := binary.LittleEndian.Uint32(p)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch off {
	case ioapicSelect:
		a.selected = uint8(v)
	case ioapicWindow:
		if a.selected == ioapicID {
			a.id = v & ioapicIDMask
		} else if pin, high, ok := a.entry(); ok {
			e := a.entries[pin]&^(0xffffffff<<high) | uint64(v)<<high
			a.entries[pin] = e &^ entryReadOnly
			a.deliver(pin)
		}
	}
}
