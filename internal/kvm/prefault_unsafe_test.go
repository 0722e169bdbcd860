package kvm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestPreFaultMatchesHeaders compares what is not generated with headers that are new enough.
func TestPreFaultMatchesHeaders(t *testing.T) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler")
	}
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "abi.c"), filepath.Join(dir, "abi")
	const program = `#include <linux/kvm.h>
#include <stddef.h>
#include <stdio.h>
int main(void) {
#ifdef KVM_PRE_FAULT_MEMORY
	printf("%lu %lu %lu %lu %lu %lu", (unsigned long)KVM_CAP_PRE_FAULT_MEMORY, (unsigned long)KVM_PRE_FAULT_MEMORY,
		sizeof(struct kvm_pre_fault_memory), offsetof(struct kvm_pre_fault_memory, gpa),
		offsetof(struct kvm_pre_fault_memory, size), offsetof(struct kvm_pre_fault_memory, flags));
#endif
	return 0;
}`
	if err := os.WriteFile(source, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(cc, "-m64", "-o", binary, source).CombinedOutput(); err != nil {
		t.Skipf("no kernel headers: %s", out)
	}
	got, err := exec.Command(binary).Output()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 {
		t.Skip("headers older than Linux 6.11")
	}
	var s preFaultMemory
	want := fmt.Sprint(uintptr(CapPreFaultMemory), ioPreFaultMemory,
		unsafe.Sizeof(s), unsafe.Offsetof(s.gpa), unsafe.Offsetof(s.size), unsafe.Offsetof(s.flags))
	if strings.TrimSpace(string(got)) != want {
		t.Errorf("the headers say %s, the code %s", got, want)
	}
}

// TestPreFault: memory that was never used is there for host and guest afterwards.
func TestPreFault(t *testing.T) {
	s := openSystem(t)
	g := newGuest(t, s, spin...)
	if has, err := g.vm.Check(CapPreFaultMemory); err != nil || has == 0 {
		t.Skipf("this kernel has no KVM_PRE_FAULT_MEMORY: %d, %v", has, err)
	}
	const gpa, size = 1 << 30, 64 << 12
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	if err := g.vm.SetMemory(100, gpa, mem); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.vm.SetMemory(100, gpa, nil) }()
	for done := uint64(0); done < size; {
		n, err := g.vcpu.PreFault(gpa+done, size-done)
		if err != nil || n == 0 {
			t.Fatalf("after %d bytes: %d, %v", done, n, err)
		}
		done += n
	}
	if n := presentPages(t, mem); n != size>>12 {
		t.Errorf("%d of %d pages are mapped", n, size>>12)
	}
	if n, err := g.vcpu.PreFault(gpa+size, 1<<12); n != 0 || !errors.Is(err, unix.ENOENT) {
		t.Errorf("outside of all memory: %d, %v", n, err)
	}
	for _, bad := range [][2]uint64{{gpa + 1, 1 << 12}, {gpa, 1}, {gpa, 0}, {^uint64(0) &^ 0xfff, 2 << 12}} {
		if n, err := g.vcpu.PreFault(bad[0], bad[1]); err == nil {
			t.Errorf("%d bytes at %#x: %d", bad[1], bad[0], n)
		}
	}
}

// presentPages counts the pages of a mapping that are in this process's page tables.
func presentPages(t *testing.T, mem []byte) (n int) {
	t.Helper()
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	entries := make([]byte, len(mem)>>12*8)
	if _, err := f.ReadAt(entries, int64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))>>12)*8); err != nil {
		t.Fatal(err)
	}
	for i := 7; i < len(entries); i += 8 {
		if entries[i]&0x80 != 0 {
			n++
		}
	}
	return n
}
