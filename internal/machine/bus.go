package machine

import (
	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/kvm"
)

// bus takes the guest's accesses to addresses without memory and to I/O ports to whom they are for.
// Where nobody is, reads give ones and writes are lost.
type bus struct {
	ioapic  *ioapic
	serial  *serial
	devices []window
}

// window is a device with registers in memory. Offsets are less than the window's size.
type window interface {
	Read(off uint64, p []byte)
	Write(off uint64, p []byte)
}

// find returns the device at an address, and the offset in its window.
func (b *bus) find(gpa uint64) (window, uint64) {
	// An address below a window wraps around to an offset beyond its end.
	if off := gpa - boot.DeviceAddr; off < uint64(len(b.devices))*boot.DeviceSize {
		return b.devices[off/boot.DeviceSize], off % boot.DeviceSize
	}
	if off := gpa - boot.IOAPICAddr; off < ioapicSize {
		return b.ioapic, off
	}
	return nil, 0
}

const ioapicSize = 0x1000

// mmio serves an access to memory addresses. The result of a read is what is to be given to the
// guest; of a write it is nil.
func (b *bus) mmio(a *kvm.MMIO) []byte {
	w, off := b.find(a.Addr)
	data := a.Data[:a.Len]
	switch {
	case a.Write:
		if w != nil {
			w.Write(off, data)
		}
		return nil
	case w == nil:
		ones(data)
	default:
		w.Read(off, data)
	}
	return data
}

// wish is what a guest wants to become of it.
type wish int

const (
	wantsNothing wish = iota
	wantsPowerOff
	wantsReset
)

// port serves an access to an I/O port, which may be one of many of a string instruction.
func (b *bus) port(io *kvm.IO) wish {
	switch {
	case io.Port >= boot.SerialPort && io.Port < boot.SerialPort+serialPorts:
		reg := io.Port - boot.SerialPort
		for i := 0; i < len(io.Data); i += int(max(io.Size, 1)) {
			if io.Out {
				b.serial.write(reg, io.Data[i])
			} else {
				ones(io.Data[i:min(i+int(io.Size), len(io.Data))])
				io.Data[i] = b.serial.read(reg)
			}
		}
	case !io.Out && io.Port == boot.SleepStatusPort:
		clear(io.Data)
	case !io.Out:
		ones(io.Data)
	case io.Port == boot.SleepControlPort && len(io.Data) > 0 && io.Data[0]&boot.SleepEnable != 0:
		return wantsPowerOff
	case io.Port == boot.ResetPort:
		return wantsReset
	}
	return wantsNothing
}

func ones(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}
