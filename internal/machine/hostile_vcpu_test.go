package machine

import (
	"fmt"
	"slices"
	"testing"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/microguest"
)

var ud2 = []byte{0x0f, 0x0b}

// hammer is code that uses the same registers as all other vCPUs.
func hammer(r ring) []byte {
	return slices.Concat(
		drive(r.dev, 0, r), notify(r), load32(register(r.dev, 0x70)),
		store32(register(devBalloon, 0x104), 7), load32(register(devBalloon, 0x104)),
		store32(boot.IOAPICAddr, ioapicEntries+2*boot.DeviceGSI), store32(boot.IOAPICAddr+ioapicWindow, entryMasked),
		load32(boot.IOAPICAddr+ioapicWindow),
		microguest.Out(boot.SerialPort+serialUnused, 1), microguest.Out(boot.SerialPort, '.'),
	)
}

// Eight vCPUs at the same registers.
func TestHostileCrowd(t *testing.T) {
	r := hostileRing(devRNG, 0)
	ram := memory{}
	ram.fill(r, r.size, func(i int) descriptor { return descriptor{addr: hostileBuffers, len: 4096, flags: descWrite} })
	var code [][]byte
	for range boot.MaxVCPUs {
		code = append(code, hammer(r))
	}
	// A ring that one of them sets up anew while another uses it has the old indexes: the device may
	// find it malformed, or not.
	attack{devices: everyDevice(t), code: code, ram: ram, mayBreak: true}.run(t)
}

// A vCPU that cannot go on ends the machine, whatever the others are at.
func TestHostileEnds(t *testing.T) {
	r := hostileRing(devRNG, 0)
	jump := append(setAddr(register(0, 0)), 0xff, 0xe7) // jmp rdi
	for name, tt := range map[string]struct {
		last []byte
		ends []Reason
	}{
		"triple fault":       {ud2, []Reason{TripleFault}},
		"reset":              {microguest.Reset(), []Reason{Rebooted}},
		"power-off":          {microguest.PowerOff(), []Reason{PoweredOff}},
		"runs device memory": {jump, []Reason{Failed, TripleFault}},
	} {
		for _, others := range []string{"busy", "hammering", "counting"} {
			t.Run(fmt.Sprintf("%s while others are %s", name, others), func(t *testing.T) {
				ram := memory{}
				ram.fill(r, r.size, func(i int) descriptor {
					return descriptor{addr: hostileBuffers + 4096*uint64(i), len: 4096, flags: descWrite}
				})
				code := [][]byte{slices.Concat(repeat(1<<22, []byte{0x90}), tt.last)}
				switch others {
				case "busy":
					code = append(code, refill(r), slices.Concat(drive(devRNG, 0, r), repeat(1<<30, notify(r))))
				case "hammering":
					code = append(code, hammer(r), hammer(r), hammer(r))
				default:
					code = append(code, nil, nil)
				}
				attack{devices: everyDevice(t), code: code, ram: ram, ends: tt.ends, mayBreak: true}.run(t)
			})
		}
	}
}

// A guest that has the interrupt controllers deliver what no driver would: non-maskable interrupts,
// resets and start-ups of processors, vectors that are reserved, to processors that are not there.
func TestHostileInterrupts(t *testing.T) {
	var code []byte
	for mode := range uint32(8) {
		for _, destination := range []uint32{1, 0xff, 77} {
			code = slices.Concat(code,
				store32(boot.IOAPICAddr, ioapicEntries+2*boot.SerialGSI+1), store32(boot.IOAPICAddr+ioapicWindow, destination<<24),
				store32(boot.IOAPICAddr, ioapicEntries+2*boot.SerialGSI), store32(boot.IOAPICAddr+ioapicWindow, mode<<8|mode*31),
				microguest.Out(boot.SerialPort+serialIER, 0), microguest.Out(boot.SerialPort+serialIER, ierEmpty), // raises the interrupt
			)
		}
	}
	// The victims may do anything, the machine may end; it does not have to, since what becomes of such
	// an interrupt depends on the processor.
	attack{code: [][]byte{code, nil}, waits: 1, ends: []Reason{TripleFault, Failed}, mayEnd: true}.run(t)
}
