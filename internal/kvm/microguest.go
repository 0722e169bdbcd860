package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A micro-guest is one VM with one vCPU, a few pages of memory and a few bytes of machine code: the
// smallest thing that shows what a KVM can do. Memory is mapped one to one.
const (
	guestMemory = 1 << 20
	guestPML4   = 0x1000
	guestPDPT   = 0x2000
	guestPD     = 0x3000
	guestData   = 0x6000 // scratch for the guest's code
	guestStack  = 0x8000 // grows down
	guestCode   = 0x8000 // where the vCPU starts
	guestUser   = 0x9000 // ring-3 code, where a test has some
	guestSystem = 0xa000 // target of SYSCALL
	// guestTSS lies outside the guest's memory, below the firmware's place at 4 GiB.
	guestTSS = 0xfffbd000
)

type microGuest struct {
	vm   *VM
	vcpu *VCPU
	mem  []byte
}

// newMicroGuest makes a VM whose memory holds code at the given addresses. The vCPU is as after
// reset, with the CPUID that the host supports.
func newMicroGuest(s *System, code map[uint64][]byte) (*microGuest, error) {
	return newMicroGuestWith(s, code, func(*VM) error { return nil })
}

// newMicroGuestWith lets setUp add to the VM between its memory and its vCPU.
func newMicroGuestWith(s *System, code map[uint64][]byte, setUp func(*VM) error) (_ *microGuest, err error) {
	g := &microGuest{}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	cpuid, err := s.SupportedCPUID()
	if err != nil {
		return nil, err
	}
	if g.mem, err = unix.Mmap(-1, 0, guestMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return nil, fmt.Errorf("map %d bytes of guest memory: %w", guestMemory, err)
	}
	for addr, bytes := range code {
		copy(g.mem[addr:], bytes)
	}
	if g.vm, err = s.CreateVM(); err != nil {
		return nil, err
	}
	if err = g.vm.SetMemory(0, 0, g.mem); err != nil {
		return nil, err
	}
	if err = g.vm.SetTSSAddr(guestTSS); err != nil {
		return nil, err
	}
	if err = setUp(g.vm); err != nil {
		return nil, err
	}
	if g.vcpu, err = g.vm.CreateVCPU(0); err != nil {
		return nil, err
	}
	return g, g.vcpu.SetCPUID(cpuid)
}

func (g *microGuest) close() error {
	var errs []error
	if g.vcpu != nil {
		errs = append(errs, g.vcpu.Close())
	}
	if g.vm != nil {
		errs = append(errs, g.vm.Close())
	}
	if g.mem != nil {
		errs = append(errs, unix.Munmap(g.mem)) // last: the kernel may use it until then
	}
	return errors.Join(errs...)
}

// Bits of control registers and model-specific registers (Intel SDM, volumes 3A and 4).
const (
	cr0PE = 1 << 0  // protected mode
	cr0MP = 1 << 1  // monitor coprocessor
	cr0ET = 1 << 4  // extension type
	cr0NE = 1 << 5  // native x87 errors
	cr0WP = 1 << 16 // write protection in ring 0
	cr0PG = 1 << 31 // paging

	cr4PAE = 1 << 5

	eferSCE = 1 << 0  // SYSCALL and SYSRET
	eferLME = 1 << 8  // long mode enabled
	eferLMA = 1 << 10 // long mode active

	flagsFixed = 1 << 1
	flagsIOPL3 = 3 << 12

	pagePresent, pageWrite, pageUser, pageLarge = 1 << 0, 1 << 1, 1 << 2, 1 << 7

	msrSTAR  = 0xc0000081
	msrLSTAR = 0xc0000082
	msrFMASK = 0xc0000084
)

// Selectors in the order that SYSCALL and SYSRET derive them from the STAR register.
const (
	kernelCS = 0x08
	kernelSS = kernelCS + 8
	userBase = 0x10 // SYSRET takes SS from +8 and CS from +16, both with privilege level 3
	userSS   = userBase + 8 | 3
	userCS   = userBase + 16 | 3
)

// realMode starts the vCPU at guestCode as an 8086 would run it.
func (g *microGuest) realMode() error {
	sregs, err := g.vcpu.Sregs()
	if err != nil {
		return err
	}
	sregs.CS.Base, sregs.CS.Selector = 0, 0
	if err := g.vcpu.SetSregs(sregs); err != nil {
		return err
	}
	return g.vcpu.SetRegs(Regs{RIP: guestCode, RFLAGS: flagsFixed})
}

// longMode starts the vCPU in 64-bit mode at the given privilege level (0 or 3) with regs, whose
// RIP, RSP and RFLAGS it sets. I/O ports are open to ring 3.
func (g *microGuest) longMode(level uint8, regs Regs) error {
	const table = pagePresent | pageWrite | pageUser
	for addr, entry := range map[int]uint64{guestPML4: guestPDPT | table, guestPDPT: guestPD | table, guestPD: 0 | table | pageLarge} {
		binary.LittleEndian.PutUint64(g.mem[addr:], entry)
	}
	sregs, err := g.vcpu.Sregs()
	if err != nil {
		return err
	}
	sregs.CR0 = cr0PE | cr0MP | cr0ET | cr0NE | cr0WP | cr0PG
	sregs.CR3 = guestPML4
	sregs.CR4 = cr4PAE
	sregs.EFER = eferSCE | eferLME | eferLMA
	code, data := uint16(kernelCS), uint16(kernelSS)
	if level == 3 {
		code, data = userCS, userSS
	}
	const typeCode, typeData = 11, 3 // execute/read and read/write, both accessed
	sregs.CS = Segment{Limit: 0xffffffff, Selector: code, Type: typeCode, Present: 1, DPL: level, S: 1, L: 1, G: 1}
	sregs.SS = Segment{Limit: 0xffffffff, Selector: data, Type: typeData, Present: 1, DPL: level, DB: 1, S: 1, G: 1}
	sregs.DS, sregs.ES, sregs.FS, sregs.GS = sregs.SS, sregs.SS, sregs.SS, sregs.SS
	if err := g.vcpu.SetSregs(sregs); err != nil {
		return err
	}
	err = g.vcpu.SetMSRs(
		MSREntry{Index: msrSTAR, Data: userBase<<48 | kernelCS<<32},
		MSREntry{Index: msrLSTAR, Data: guestSystem},
		MSREntry{Index: msrFMASK, Data: 0},
	)
	if err != nil {
		return err
	}
	regs.RIP, regs.RSP, regs.RFLAGS = guestCode, guestStack, flagsFixed
	if level == 3 {
		regs.RFLAGS |= flagsIOPL3
	}
	return g.vcpu.SetRegs(regs)
}
