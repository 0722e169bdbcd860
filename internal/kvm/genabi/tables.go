package main

// pair is a name in C and what it is called in Go.
type pair struct{ c, goName string }

// group is a block of constants of one Go type; no type means untyped.
type group struct {
	doc, typ string
	names    []pair
}

var groups = []group{
	{doc: "Ioctl requests.", names: []pair{
		{"KVM_GET_API_VERSION", "ioGetAPIVersion"},
		{"KVM_CREATE_VM", "ioCreateVM"},
		{"KVM_CHECK_EXTENSION", "ioCheckExtension"},
		{"KVM_GET_VCPU_MMAP_SIZE", "ioGetVCPUMmapSize"},
		{"KVM_GET_SUPPORTED_CPUID", "ioGetSupportedCPUID"},
		{"KVM_GET_MSR_INDEX_LIST", "ioGetMSRIndexList"},
		{"KVM_CREATE_VCPU", "ioCreateVCPU"},
		{"KVM_SET_USER_MEMORY_REGION", "ioSetUserMemoryRegion"},
		{"KVM_SET_TSS_ADDR", "ioSetTSSAddr"},
		{"KVM_ENABLE_CAP", "ioEnableCap"},
		{"KVM_SIGNAL_MSI", "ioSignalMSI"},
		{"KVM_RUN", "ioRun"},
		{"KVM_GET_REGS", "ioGetRegs"},
		{"KVM_SET_REGS", "ioSetRegs"},
		{"KVM_GET_SREGS", "ioGetSregs"},
		{"KVM_SET_SREGS", "ioSetSregs"},
		{"KVM_GET_MSRS", "ioGetMSRs"},
		{"KVM_SET_MSRS", "ioSetMSRs"},
		{"KVM_SET_CPUID2", "ioSetCPUID2"},
		{"KVM_GET_LAPIC", "ioGetLAPIC"},
		{"KVM_SET_LAPIC", "ioSetLAPIC"},
		{"KVM_GET_MP_STATE", "ioGetMPState"},
		{"KVM_SET_MP_STATE", "ioSetMPState"},
		{"KVM_GET_VCPU_EVENTS", "ioGetVCPUEvents"},
		{"KVM_SET_VCPU_EVENTS", "ioSetVCPUEvents"},
		{"KVM_GET_DEBUGREGS", "ioGetDebugRegs"},
		{"KVM_SET_DEBUGREGS", "ioSetDebugRegs"},
		{"KVM_GET_XSAVE", "ioGetXSave"},
		{"KVM_SET_XSAVE", "ioSetXSave"},
		{"KVM_GET_XCRS", "ioGetXCRs"},
		{"KVM_SET_XCRS", "ioSetXCRs"},
		{"KVM_KVMCLOCK_CTRL", "ioKVMClockCtrl"},
		{"KVM_GET_TSC_KHZ", "ioGetTSCKHz"},
		{"KVM_SET_TSC_KHZ", "ioSetTSCKHz"},
		{"KVM_GET_CLOCK", "ioGetClock"},
		{"KVM_SET_CLOCK", "ioSetClock"},
	}},
	{doc: "Versions and fixed positions.", names: []pair{
		{"KVM_API_VERSION", "apiVersion"},
		{"KVM_EXIT_IO_OUT", "exitIOOut"},
	}},
	{doc: "Capabilities, for System.Check and VM.Check.", typ: "Cap", names: []pair{
		{"KVM_CAP_USER_MEMORY", "CapUserMemory"},
		{"KVM_CAP_SET_TSS_ADDR", "CapSetTSSAddr"},
		{"KVM_CAP_EXT_CPUID", "CapExtCPUID"},
		{"KVM_CAP_NR_VCPUS", "CapNrVCPUs"},
		{"KVM_CAP_NR_MEMSLOTS", "CapNrMemslots"},
		{"KVM_CAP_MAX_VCPUS", "CapMaxVCPUs"},
		{"KVM_CAP_SIGNAL_MSI", "CapSignalMSI"},
		{"KVM_CAP_TSC_DEADLINE_TIMER", "CapTSCDeadlineTimer"},
		{"KVM_CAP_TSC_CONTROL", "CapTSCControl"},
		{"KVM_CAP_SPLIT_IRQCHIP", "CapSplitIRQChip"},
		{"KVM_CAP_IMMEDIATE_EXIT", "CapImmediateExit"},
	}},
	{doc: "Exit reasons.", typ: "ExitReason", names: []pair{
		{"KVM_EXIT_UNKNOWN", "ExitUnknown"},
		{"KVM_EXIT_EXCEPTION", "ExitException"},
		{"KVM_EXIT_IO", "ExitIO"},
		{"KVM_EXIT_HLT", "ExitHLT"},
		{"KVM_EXIT_MMIO", "ExitMMIO"},
		{"KVM_EXIT_SHUTDOWN", "ExitShutdown"},
		{"KVM_EXIT_FAIL_ENTRY", "ExitFailEntry"},
		{"KVM_EXIT_INTR", "ExitIntr"},
		{"KVM_EXIT_INTERNAL_ERROR", "ExitInternalError"},
		{"KVM_EXIT_SYSTEM_EVENT", "ExitSystemEvent"},
	}},
}

// layout is a struct whose Go counterpart must match. Of a prefix only the fields named count: the
// kernel may let the struct grow at its end.
type layout struct {
	c      string
	prefix bool
	fields []pair
}

var structs = []layout{
	{c: "kvm_regs", fields: []pair{
		{"rax", "RAX"}, {"rbx", "RBX"}, {"rcx", "RCX"}, {"rdx", "RDX"}, {"rsi", "RSI"}, {"rdi", "RDI"},
		{"rsp", "RSP"}, {"rbp", "RBP"}, {"r8", "R8"}, {"r9", "R9"}, {"r10", "R10"}, {"r11", "R11"},
		{"r12", "R12"}, {"r13", "R13"}, {"r14", "R14"}, {"r15", "R15"}, {"rip", "RIP"}, {"rflags", "RFLAGS"},
	}},
	{c: "kvm_segment", fields: []pair{
		{"base", "Base"}, {"limit", "Limit"}, {"selector", "Selector"}, {"type", "Type"},
		{"present", "Present"}, {"dpl", "DPL"}, {"db", "DB"}, {"s", "S"}, {"l", "L"}, {"g", "G"},
		{"avl", "AVL"}, {"unusable", "Unusable"},
	}},
	{c: "kvm_dtable", fields: []pair{{"base", "Base"}, {"limit", "Limit"}}},
	{c: "kvm_sregs", fields: []pair{
		{"cs", "CS"}, {"ds", "DS"}, {"es", "ES"}, {"fs", "FS"}, {"gs", "GS"}, {"ss", "SS"},
		{"tr", "TR"}, {"ldt", "LDT"}, {"gdt", "GDT"}, {"idt", "IDT"}, {"cr0", "CR0"}, {"cr2", "CR2"},
		{"cr3", "CR3"}, {"cr4", "CR4"}, {"cr8", "CR8"}, {"efer", "EFER"}, {"apic_base", "APICBase"},
		{"interrupt_bitmap", "InterruptBitmap"},
	}},
	{c: "kvm_userspace_memory_region", fields: []pair{
		{"slot", "slot"}, {"flags", "flags"}, {"guest_phys_addr", "guestPhysAddr"},
		{"memory_size", "memorySize"}, {"userspace_addr", "userspaceAddr"},
	}},
	{c: "kvm_cpuid_entry2", fields: []pair{
		{"function", "Function"}, {"index", "Index"}, {"flags", "Flags"},
		{"eax", "EAX"}, {"ebx", "EBX"}, {"ecx", "ECX"}, {"edx", "EDX"},
	}},
	{c: "kvm_cpuid2", prefix: true, fields: []pair{{"nent", "nent"}, {"entries", "entries"}}},
	{c: "kvm_msr_entry", fields: []pair{{"index", "Index"}, {"data", "Data"}}},
	{c: "kvm_msrs", prefix: true, fields: []pair{{"nmsrs", "nmsrs"}, {"entries", "entries"}}},
	{c: "kvm_msr_list", prefix: true, fields: []pair{{"nmsrs", "nmsrs"}, {"indices", "indices"}}},
	{c: "kvm_enable_cap", fields: []pair{{"cap", "cap"}, {"flags", "flags"}, {"args", "args"}}},
	{c: "kvm_msi", fields: []pair{{"address_lo", "address"}, {"data", "data"}, {"flags", "flags"}, {"devid", "devid"}}},
	// What VCPUState keeps as the kernel wrote it: only the sizes count.
	{c: "kvm_clock_data", fields: []pair{
		{"clock", "clock"}, {"flags", "flags"}, {"realtime", "realtime"}, {"host_tsc", "hostTSC"},
	}},
	{c: "kvm_lapic_state"},
	{c: "kvm_mp_state"},
	{c: "kvm_vcpu_events"},
	{c: "kvm_debugregs"},
	{c: "kvm_xsave"},
	{c: "kvm_xcrs"},
	{c: "kvm_run", prefix: true, fields: []pair{
		{"request_interrupt_window", "control"}, {"exit_reason", "exitReason"},
		{"ready_for_interrupt_injection", "readyForInterruptInjection"}, {"if_flag", "ifFlag"},
		{"flags", "flags"}, {"cr8", "cr8"}, {"apic_base", "apicBase"}, {"io", "exit"},
	}},
	// Parts of the union in kvm_run that Exit decodes byte by byte.
	{c: "kvm_run", prefix: true, fields: []pair{
		{"immediate_exit", ""}, {"io.direction", ""}, {"io.size", ""}, {"io.port", ""}, {"io.count", ""},
		{"io.data_offset", ""}, {"mmio.phys_addr", ""}, {"mmio.data", ""}, {"mmio.len", ""},
		{"mmio.is_write", ""}, {"internal.suberror", ""}, {"internal.ndata", ""}, {"internal.data", ""},
		{"fail_entry.hardware_entry_failure_reason", ""}, {"fail_entry.cpu", ""},
	}},
}
