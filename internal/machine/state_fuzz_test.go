package machine

import (
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/kvm"
)

// FuzzState restores an IOAPIC and a serial port from any state and uses them. What is accepted is what
// they then say of themselves.
func FuzzState(f *testing.F) {
	type fields struct {
		IOAPIC                      IOAPICState
		IER, FCR, LCR, MCR, Scratch byte
		Divisor                     [2]byte
		Sent                        bool
		Loopback                    uint8
	}
	encode := func(s fields) []byte {
		b, err := binary.Append(nil, binary.LittleEndian, s)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	s := fields{IER: ierMask, FCR: fcrFIFO, MCR: mcrLoopback, Loopback: serialFIFO, Sent: true}
	s.IOAPIC.Entries[boot.SerialGSI], s.IOAPIC.Pending[boot.SerialGSI] = 0x31, true
	f.Add(encode(s), []byte{0, 0, 1, 0x31})
	s.Loopback++
	f.Add(encode(s), []byte{})
	s.Loopback, s.IOAPIC.Entries[3] = 0, 1<<12
	f.Add(encode(s), []byte{0xff, 0xff})
	f.Add(encode(fields{IOAPIC: IOAPICState{Selected: 0xff, ID: 1<<32 - 1}}), []byte{7, 9})
	f.Fuzz(func(t *testing.T, state, accesses []byte) {
		var in fields
		if _, err := binary.Decode(state, binary.LittleEndian, &in); err != nil {
			return
		}
		wanted := SerialState{
			IER: in.IER, FCR: in.FCR, LCR: in.LCR, MCR: in.MCR, Scratch: in.Scratch, Divisor: in.Divisor, Sent: in.Sent,
		}
		if in.Loopback > 0 {
			wanted.Loopback = make([]byte, in.Loopback)
		}
		a := newIOAPIC(func(msi kvm.MSI) {
			if msi.Address&^uint64(0xff<<msiDestination|msiLogical) != msiAddress || msi.Data&^(entryVector|entryDelivery) != 0 {
				t.Errorf("message %+v", msi)
			}
		})
		port := newSerial(&console{}, func() { a.pulse(boot.SerialGSI) })
		err := a.restore(in.IOAPIC)
		if err == nil {
			in.IOAPIC.ID &= ioapicIDMask
			if got := a.state(); got != in.IOAPIC {
				t.Fatalf("restored %+v, got %+v", in.IOAPIC, got)
			}
			err = port.restore(wanted)
		}
		if err != nil {
			if !errors.Is(err, ErrState) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		if got := port.state(); !reflect.DeepEqual(got, wanted) {
			t.Fatalf("restored %+v, got %+v", wanted, got)
		}
		for pin := range uint32(boot.IOAPICPins) {
			a.pulse(pin)
		}
		for ; len(accesses) >= 2; accesses = accesses[2:] {
			reg, v := accesses[0], accesses[1]
			port.write(uint16(reg%serialPorts), v)
			port.read(uint16(v % serialPorts))
			a.Write(ioapicSelect, []byte{reg, 0, 0, 0})
			a.Write(ioapicWindow, []byte{v, reg, v, reg})
			a.Read(ioapicWindow, make([]byte, v%9))
		}
		if s := port.state(); len(s.Loopback) > serialFIFO || s.IER&^ierMask != 0 {
			t.Fatalf("%+v", s)
		}
	})
}
