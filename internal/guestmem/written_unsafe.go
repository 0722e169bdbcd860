package guestmem

import (
	"fmt"
	"os"
	"runtime"
	"structs"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From linux/fs.h: PAGEMAP_SCAN and its categories, frozen since Linux 6.7.
// https://docs.kernel.org/admin-guide/mm/pagemap.html#pagemap-scan-ioctl
const (
	// PagemapScan is the ioctl request of a Pagemap, for a system call filter.
	PagemapScan = 0xc0606610 // _IOWR('f', 16, struct pm_scan_arg)

	pageIsFile    = 1 << 2
	pageIsPresent = 1 << 3
	pageIsSwapped = 1 << 4
	pageIsZero    = 1 << 5
)

// pmScanArg is struct pm_scan_arg.
type pmScanArg struct {
	_                structs.HostLayout
	size             uint64
	flags            uint64
	start            uint64
	end              uint64
	walkEnd          uint64
	vec              uint64
	vecLen           uint64
	maxPages         uint64
	categoryInverted uint64
	categoryMask     uint64
	categoryAnyof    uint64
	returnMask       uint64
}

// pageRegion is struct page_region.
type pageRegion struct {
	_          structs.HostLayout
	start      uint64
	end        uint64
	categories uint64
}

// address is where the mapping begins.
func (mp mapping) address() uintptr {
	return uintptr(unsafe.Pointer(unsafe.SliceData(mp.mem))) // memory outside Go's heap: it does not move
}

// scan has the kernel list the pages. ENOTTY says that it cannot.
func (p *Pagemap) scan(mp mapping) ([]span, error) {
	base := uint64(mp.address())
	end := base + uint64(len(mp.mem))
	regions := make([]pageRegion, 512)
	arg := &pmScanArg{
		start: base, end: end, vecLen: uint64(len(regions)),
		categoryInverted: pageIsFile | pageIsZero,
		categoryMask:     pageIsFile | pageIsZero,
		categoryAnyof:    pageIsPresent | pageIsSwapped,
		returnMask:       pageIsPresent,
	}
	arg.size = uint64(unsafe.Sizeof(*arg)) // a size is no use of memory
	var pin runtime.Pinner                 // vec is an address in a struct, which the collector does not see
	defer pin.Unpin()
	pin.Pin(&regions[0])
	arg.vec = uint64(uintptr(unsafe.Pointer(&regions[0])))
	var spans []span
	for arg.start < end {
		n, err := p.pagemapScan(arg)
		if err != nil {
			return nil, err
		}
		for _, r := range regions[:min(n, len(regions))] {
			spans = appendSpan(spans, span{r.start - base, r.end - base})
		}
		if arg.walkEnd <= arg.start {
			return nil, fmt.Errorf("scan page map: no progress at %#x", arg.start)
		}
		arg.start = arg.walkEnd
	}
	return spans, nil
}

func (p *Pagemap) pagemapScan(arg *pmScanArg) (n int, err error) {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		// arg is in the call's own expression, so that it stays alive and is kept up to date if it moves.
		var r uintptr
		r, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, PagemapScan, uintptr(unsafe.Pointer(arg)))
		n = int(r)
	})
	if err != nil {
		return 0, err
	}
	if errno != 0 {
		return 0, os.NewSyscallError("PAGEMAP_SCAN", errno)
	}
	return n, nil
}
