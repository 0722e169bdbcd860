package machine

import (
	"io"
	"sync"
)

// serial is COM1, a 16550A that sends at once and receives nothing.
// https://www.ti.com/lit/ds/symlink/pc16550d.pdf
type serial struct {
	out       io.Writer
	interrupt func()

	mu       sync.Mutex
	ier      byte // interrupt enable
	fcr      byte // FIFO control
	lcr      byte // line control
	mcr      byte // modem control
	scratch  byte
	divisor  [2]byte
	sent     bool // the interrupt "transmitter empty" was not acknowledged
	loopback []byte
}

// Registers, by their offset from the first port.
const (
	serialData   = 0 // with lcrDivisor: the divisor's low half
	serialIER    = 1 // its high half
	serialIIR    = 2 // read; write: FIFO control
	serialLCR    = 3
	serialMCR    = 4
	serialLSR    = 5
	serialMSR    = 6
	serialUnused = 7 // scratch
	serialPorts  = 8

	ierData  = 1 << 0
	ierEmpty = 1 << 1
	ierMask  = 0xf

	iirNone  = 1
	iirEmpty = 2
	iirData  = 4
	iirFIFO  = 0xc0
	fcrFIFO  = 1

	lcrDivisor  = 1 << 7
	mcrLoopback = 1 << 4
	mcrMask     = 0x1f

	lsrData  = 1 << 0
	lsrEmpty = 1<<5 | 1<<6 // holding register and shift register

	msrConnected = 0xb0 // clear to send, data set ready, carrier detect

	serialFIFO = 16
)

func newSerial(out io.Writer, interrupt func()) *serial {
	return &serial{out: out, interrupt: interrupt}
}

// write is a write of the guest to a register.
func (s *serial) write(reg uint16, v byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch reg {
	case serialData:
		switch {
		case s.lcr&lcrDivisor != 0:
			s.divisor[0] = v
		case s.mcr&mcrLoopback != 0:
			if len(s.loopback) < serialFIFO {
				s.loopback = append(s.loopback, v)
			}
			s.update(true)
		default:
			_, _ = s.out.Write([]byte{v})
			s.update(true)
		}
	case serialIER:
		if s.lcr&lcrDivisor != 0 {
			s.divisor[1] = v
			return
		}
		enabled := v &^ s.ier & ierEmpty
		s.ier = v & ierMask
		// Enabling the interrupt while the transmitter is empty, as it always is, raises it.
		s.update(enabled != 0)
	case serialIIR:
		s.fcr = v
		if v&2 != 0 { // clear what was received
			s.loopback = nil
		}
	case serialLCR:
		s.lcr = v
	case serialMCR:
		s.mcr = v & mcrMask
		if s.mcr&mcrLoopback == 0 {
			s.loopback = nil
		}
	case serialUnused:
		s.scratch = v
	}
}

// update raises the interrupt if there is a reason for one; sent says that a byte has left. The
// caller holds s.mu.
func (s *serial) update(sent bool) {
	s.sent = s.sent || sent
	if s.cause() != iirNone {
		s.interrupt()
	}
}

// cause is the reason of the most important interrupt that is pending and enabled.
func (s *serial) cause() byte {
	switch {
	case s.ier&ierData != 0 && len(s.loopback) > 0:
		return iirData
	case s.ier&ierEmpty != 0 && s.sent:
		return iirEmpty
	}
	return iirNone
}

// read is a read of the guest from a register.
func (s *serial) read(reg uint16) byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch reg {
	case serialData:
		if s.lcr&lcrDivisor != 0 {
			return s.divisor[0]
		}
		if len(s.loopback) == 0 {
			return 0
		}
		v := s.loopback[0]
		s.loopback = s.loopback[1:]
		return v
	case serialIER:
		if s.lcr&lcrDivisor != 0 {
			return s.divisor[1]
		}
		return s.ier
	case serialIIR:
		cause := s.cause()
		if cause == iirEmpty {
			s.sent = false
		}
		if s.fcr&fcrFIFO != 0 {
			cause |= iirFIFO
		}
		return cause
	case serialLCR:
		return s.lcr
	case serialMCR:
		return s.mcr
	case serialLSR:
		if len(s.loopback) > 0 {
			return lsrEmpty | lsrData
		}
		return lsrEmpty
	case serialMSR:
		if s.mcr&mcrLoopback != 0 { // the outputs, fed back: RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD
			return s.mcr&2<<3 | s.mcr&1<<5 | s.mcr&0xc<<4
		}
		return msrConnected
	case serialUnused:
		return s.scratch
	}
	return 0xff
}
