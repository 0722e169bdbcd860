package kvm

import (
	"encoding/binary"
	"fmt"
)

// ExitReason says why the guest stopped.
type ExitReason uint32

// String names the reasons that Go code handles; others are a number.
func (r ExitReason) String() string {
	switch r {
	case ExitUnknown:
		return "unknown"
	case ExitException:
		return "exception"
	case ExitIO:
		return "port I/O"
	case ExitHLT:
		return "HLT"
	case ExitMMIO:
		return "MMIO"
	case ExitShutdown:
		return "shutdown (triple fault)"
	case ExitFailEntry:
		return "failed entry"
	case ExitIntr:
		return "interrupted"
	case ExitInternalError:
		return "KVM internal error"
	case ExitSystemEvent:
		return "system event"
	}
	return fmt.Sprintf("exit %d", uint32(r))
}

// Exit is a copy of what the kernel reported; it stays valid when the vCPU runs on.
type Exit struct {
	Reason ExitReason
	// IO is set for ExitIO, MMIO for ExitMMIO.
	IO   IO
	MMIO MMIO
	// Code is the hardware's reason for ExitFailEntry and the suberror for ExitInternalError.
	Code uint64
}

// String is a short form for messages.
func (e Exit) String() string {
	switch e.Reason {
	case ExitIO:
		return fmt.Sprintf("%v, port %#x", e.Reason, e.IO.Port)
	case ExitMMIO:
		return fmt.Sprintf("%v, address %#x", e.Reason, e.MMIO.Addr)
	case ExitFailEntry, ExitInternalError:
		return fmt.Sprintf("%v %#x", e.Reason, e.Code)
	}
	return e.Reason.String()
}

// IO is an access to an I/O port.
type IO struct {
	Out  bool
	Port uint16
	Size uint8 // bytes of one access: 1, 2 or 4
	// Data is what the guest wrote, Size bytes for each access of a string instruction. For a
	// read it is the length to fill; it aliases the page shared with the kernel until the next Run.
	Data []byte
}

// MMIO is an access to an address without memory.
type MMIO struct {
	Addr  uint64
	Write bool
	Len   uint32 // 1..8
	Data  [8]byte
}

// mmioDataOffset is where in the exit's details the data of an MMIO access is.
const mmioDataOffset = 8

// decodeExit reads the page at the start of shared. It was written by the kernel, in part with
// values of the guest's choice; lengths and offsets are checked all the same.
func decodeExit(page *runPage, shared []byte) Exit {
	e := Exit{Reason: ExitReason(page.exitReason)}
	u := page.exit[:]
	le := binary.LittleEndian
	switch e.Reason {
	case ExitIO:
		e.IO = IO{Out: u[0] == exitIOOut, Size: u[1], Port: le.Uint16(u[2:])}
		length, offset := uint64(u[1])*uint64(le.Uint32(u[4:])), le.Uint64(u[8:])
		if size := uint64(len(shared)); offset <= size && length <= size-offset {
			e.IO.Data = shared[offset : offset+length : offset+length]
		}
	case ExitMMIO:
		e.MMIO = MMIO{Addr: le.Uint64(u), Len: min(le.Uint32(u[16:]), 8), Write: u[20] != 0}
		copy(e.MMIO.Data[:], u[mmioDataOffset:])
	case ExitFailEntry:
		e.Code = le.Uint64(u)
	case ExitInternalError:
		e.Code = uint64(le.Uint32(u))
	}
	return e
}
