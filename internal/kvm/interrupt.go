package kvm

// EnableSplitIRQChip gives the VM local APICs in the kernel and leaves the IOAPIC, which has the given
// number of pins, and all else to user space. It comes before the first vCPU, and after memory: with
// interrupt controllers first, memory is set more slowly.
func (v *VM) EnableSplitIRQChip(pins int) error {
	return v.enableCap("KVM_CAP_SPLIT_IRQCHIP", CapSplitIRQChip, uint64(pins))
}

// MSI is a message-signalled interrupt: an address, which names the local APICs, and the data, with
// the vector. https://docs.kernel.org/virt/kvm/api.html#kvm-signal-msi, Intel SDM volume 3A, 11.11.
type MSI struct {
	Address uint64
	Data    uint32
}

// SignalMSI delivers an interrupt. delivered is false if the guest has blocked it, as a local APIC
// that is switched off does.
func (v *VM) SignalMSI(m MSI) (delivered bool, err error) {
	// "Returns > 0 on delivery, 0 if guest blocked the MSI."
	n, err := v.signalMSI(&msi{address: m.Address, data: m.Data})
	return n > 0, err
}
