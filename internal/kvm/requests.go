package kvm

// Requests lists the ioctl requests of this package, for a system call filter.
func Requests() []uintptr {
	return []uintptr{
		ioGetAPIVersion, ioCreateVM, ioCheckExtension, ioGetVCPUMmapSize, ioGetSupportedCPUID, ioGetMSRIndexList,
		ioCreateVCPU, ioSetUserMemoryRegion, ioSetTSSAddr, ioEnableCap, ioSignalMSI,
		ioRun, ioGetRegs, ioSetRegs, ioGetSregs, ioSetSregs, ioGetMSRs, ioSetMSRs, ioSetCPUID2,
		ioGetLAPIC, ioSetLAPIC, ioGetMPState, ioSetMPState, ioGetVCPUEvents, ioSetVCPUEvents,
		ioGetDebugRegs, ioSetDebugRegs, ioGetXSave, ioSetXSave, ioGetXCRs, ioSetXCRs, ioKVMClockCtrl,
		ioGetClock, ioSetClock, ioGetTSCKHz, ioSetTSCKHz,
		ioPreFaultMemory,
	}
}
