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
	var spans []span
	err := p.walk(mp, pmScanArg{
		categoryInverted: pageIsFile | pageIsZero,
		categoryMask:     pageIsFile | pageIsZero,
		categoryAnyof:    pageIsPresent | pageIsSwapped,
		returnMask:       pageIsPresent,
	}, func(s span, _ uint64) { spans = appendSpan(spans, s) })
	return spans, err
}

// scanPresent is scan for the pages that are mapped at all.
func (p *Pagemap) scanPresent(mp mapping) (touched []Touched, err error) {
	err = p.walk(mp, pmScanArg{categoryMask: pageIsPresent, returnMask: pageIsFile | pageIsZero}, func(s span, categories uint64) {
		touched = appendTouched(touched, Touched{s.start, s.end - s.start, categories&(pageIsFile|pageIsZero) == 0})
	})
	return touched, err
}

// walk has the kernel list the pages of the mapping that arg asks for, with the categories that it wants to know.
func (p *Pagemap) walk(mp mapping, query pmScanArg, each func(s span, categories uint64)) error {
	base := uint64(mp.address())
	end := base + uint64(len(mp.mem))
	regions := make([]pageRegion, 512)
	arg := &query
	arg.start, arg.end, arg.vecLen = base, end, uint64(len(regions))
	arg.size = uint64(unsafe.Sizeof(*arg)) // a size is no use of memory
	var pin runtime.Pinner                 // vec is an address in a struct, which the collector does not see
	defer pin.Unpin()
	pin.Pin(&regions[0])
	arg.vec = uint64(uintptr(unsafe.Pointer(&regions[0])))
	for arg.start < end {
		n, err := p.pagemapScan(arg)
		if err != nil {
			return err
		}
		for _, r := range regions[:min(n, len(regions))] {
			each(span{r.start - base, r.end - base}, r.categories)
		}
		if arg.walkEnd <= arg.start {
			return fmt.Errorf("scan page map: no progress at %#x", arg.start)
		}
		arg.start = arg.walkEnd
	}
	return nil
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
