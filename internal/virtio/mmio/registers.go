package mmio

// Size is the size of the register window in bytes: the registers and a page's worth of
// configuration space are more than any device needs, and windows do not share pages.
const Size = 0x1000

// NotifyOffset is the offset of the register to which the driver writes the number of a queue, 32 bits
// wide, to have it processed: what an ioeventfd is attached to.
const NotifyOffset = regQueueNotify

// Registers (virtio 1.2, section 4.2.2).
const (
	regMagic             = 0x000
	regVersion           = 0x004
	regDeviceID          = 0x008
	regVendorID          = 0x00c
	regDeviceFeatures    = 0x010
	regDeviceFeaturesSel = 0x014
	regDriverFeatures    = 0x020
	regDriverFeaturesSel = 0x024
	regQueueSel          = 0x030
	regQueueNumMax       = 0x034
	regQueueNum          = 0x038
	regQueueReady        = 0x044
	regQueueNotify       = 0x050
	regInterruptStatus   = 0x060
	regInterruptACK      = 0x064
	regStatus            = 0x070
	regQueueDescLow      = 0x080
	regQueueDescHigh     = 0x084
	regQueueDriverLow    = 0x090
	regQueueDriverHigh   = 0x094
	regQueueDeviceLow    = 0x0a0
	regQueueDeviceHigh   = 0x0a4
	regShmLenLow         = 0x0b0
	regShmBaseHigh       = 0x0bc
	regConfigGeneration  = 0x0fc
	regConfig            = 0x100
)

const (
	magic    = 0x74726976 // "virt"
	version  = 2
	vendorID = 0x52485441 // "ATHR"
)

// Bits of the interrupt status.
const (
	interruptUsed   = 1
	interruptConfig = 2
)

// Bits of the device status.
const (
	statusAcknowledge = 1
	statusDriver      = 2
	statusDriverOK    = 4
	statusFeaturesOK  = 8
	statusNeedsReset  = 64
	statusFailed      = 128
)

// Each bit is set by the driver when those before it are: sections 3.1.1 and 2.1.
const (
	statusAcknowledged = statusAcknowledge
	statusDriverFound  = statusAcknowledged | statusDriver
	statusNegotiated   = statusDriverFound | statusFeaturesOK
	statusRunning      = statusNegotiated | statusDriverOK
)
