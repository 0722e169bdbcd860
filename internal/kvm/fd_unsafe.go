package kvm

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fd owns a file descriptor. Its methods may be called concurrently: close waits for the calls in
// progress, so that a number that the kernel has given away again is never used.
type fd struct {
	name string // for errors

	mu  sync.RWMutex // held for reading while raw is in use
	raw int          // -1 once closed

	cleanup runtime.Cleanup
}

// newFD takes over raw. An owner that is dropped without close still gives it back to the kernel.
func newFD(raw int, name string) *fd {
	f := &fd{name: name, raw: raw}
	f.cleanup = runtime.AddCleanup(f, func(raw int) { _ = unix.Close(raw) }, raw)
	return f
}

func (f *fd) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.raw < 0 {
		return nil
	}
	f.cleanup.Stop()
	err := unix.Close(f.raw)
	f.raw = -1
	if err != nil {
		return fmt.Errorf("close %s: %w", f.name, err)
	}
	return nil
}

// ioctl calls the kernel with a pointer. arg is an unsafe.Pointer up to the last moment: as a
// uintptr it would not be corrected when the goroutine's stack moves, and the kernel's answer
// would go to where the struct used to be.
func (f *fd) ioctl(op string, request uintptr, arg unsafe.Pointer) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.raw < 0 {
		return 0, fmt.Errorf("%s on %s: %w", op, f.name, os.ErrClosed)
	}
	for {
		// The conversion stands in the call's argument list, where the compiler keeps what arg
		// points to alive and in place until the call returns.
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.raw), request, uintptr(arg))
		switch {
		case errno == 0:
			return int(n), nil
		case errno == unix.EINTR && request != ioRun:
			// The Go runtime's own preemption signals interrupt long requests such as
			// KVM_CREATE_VM; nothing has been done then, so ask again. KVM_RUN's caller decides.
			continue
		}
		return 0, fmt.Errorf("%s on %s: %w", op, f.name, errno)
	}
}

// ioctlValue calls the kernel with a number.
func (f *fd) ioctlValue(op string, request, arg uintptr) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.raw < 0 {
		return 0, fmt.Errorf("%s on %s: %w", op, f.name, os.ErrClosed)
	}
	for {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.raw), request, arg)
		switch {
		case errno == 0:
			return int(n), nil
		case errno == unix.EINTR && request != ioRun:
			continue
		}
		return 0, fmt.Errorf("%s on %s: %w", op, f.name, errno)
	}
}

// mmap maps the first size bytes, shared and writable.
func (f *fd) mmap(size int) ([]byte, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.raw < 0 {
		return nil, fmt.Errorf("map %s: %w", f.name, os.ErrClosed)
	}
	mem, err := unix.Mmap(f.raw, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.name, err)
	}
	return mem, nil
}

// runPageOf views the start of a vCPU's shared mapping as the struct that the kernel has put there.
func runPageOf(mem []byte) (*runPage, error) {
	if uintptr(len(mem)) < unsafe.Sizeof(runPage{}) {
		return nil, errors.New("kvm: the vCPU's shared page is smaller than struct kvm_run")
	}
	// A mapping starts on a page, so the alignment is right, and it lies outside Go's heap, so it
	// does not move; the caller keeps mem mapped for as long as it uses the result.
	return (*runPage)(unsafe.Pointer(unsafe.SliceData(mem))), nil
}
