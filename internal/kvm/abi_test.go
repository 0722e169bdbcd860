package kvm

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
)

// headerLayout is a struct of the kernel's headers; size 0 means that it may grow at its end.
type headerLayout struct {
	c      string
	size   uintptr
	fields []headerField
}

// headerField has no Go name where Go code reads the bytes without a struct.
type headerField struct {
	c, goName string
	offset    uintptr
}

func TestStructsMatchHeaders(t *testing.T) {
	types := map[string]reflect.Type{
		"kvm_regs":                    reflect.TypeFor[Regs](),
		"kvm_segment":                 reflect.TypeFor[Segment](),
		"kvm_dtable":                  reflect.TypeFor[DTable](),
		"kvm_sregs":                   reflect.TypeFor[Sregs](),
		"kvm_userspace_memory_region": reflect.TypeFor[userMemoryRegion](),
		"kvm_cpuid_entry2":            reflect.TypeFor[CPUIDEntry](),
		"kvm_cpuid2":                  reflect.TypeFor[cpuid2](),
		"kvm_msr_entry":               reflect.TypeFor[MSREntry](),
		"kvm_msrs":                    reflect.TypeFor[msrs](),
		"kvm_msr_list":                reflect.TypeFor[msrList](),
		"kvm_enable_cap":              reflect.TypeFor[enableCap](),
		"kvm_msi":                     reflect.TypeFor[msi](),
		"kvm_clock_data":              reflect.TypeFor[clockData](),
		"kvm_lapic_state":             reflect.TypeFor[lapicState](),
		"kvm_mp_state":                reflect.TypeFor[mpState](),
		"kvm_vcpu_events":             reflect.TypeFor[vcpuEvents](),
		"kvm_debugregs":               reflect.TypeFor[debugRegs](),
		"kvm_xsave":                   reflect.TypeFor[xsave](),
		"kvm_xcrs":                    reflect.TypeFor[xcrs](),
		"kvm_run":                     reflect.TypeFor[runPage](),
	}
	seen := map[string]bool{}
	for _, l := range headerLayouts {
		typ, ok := types[l.c]
		if !ok {
			t.Errorf("no Go type for struct %s", l.c)
			continue
		}
		seen[l.c] = true
		if l.size != 0 && typ.Size() != l.size {
			t.Errorf("%v has %d bytes, struct %s has %d", typ, typ.Size(), l.c, l.size)
		}
		for _, f := range l.fields {
			if f.goName == "" {
				continue
			}
			field, ok := typ.FieldByName(f.goName)
			if !ok {
				t.Errorf("%v has no field %s", typ, f.goName)
			} else if field.Offset != f.offset {
				t.Errorf("%v.%s is at %d, %s.%s at %d", typ, f.goName, field.Offset, l.c, f.c, f.offset)
			}
		}
	}
	for c := range types {
		if !seen[c] {
			t.Errorf("struct %s is not compared", c)
		}
	}
}

// TestDecodeOffsets compares the offsets that decodeExit reads at with those of the headers.
func TestDecodeOffsets(t *testing.T) {
	const union = 32 // offset of the exit's details in struct kvm_run; checked above as field "exit"
	want := map[string]uintptr{
		"immediate_exit": 1,
		"io.direction":   union, "io.size": union + 1, "io.port": union + 2, "io.count": union + 4, "io.data_offset": union + 8,
		"mmio.phys_addr": union, "mmio.data": union + 8, "mmio.len": union + 16, "mmio.is_write": union + 20,
		"internal.suberror": union, "internal.ndata": union + 4, "internal.data": union + 8,
		"fail_entry.hardware_entry_failure_reason": union, "fail_entry.cpu": union + 8,
	}
	n := 0
	for _, l := range headerLayouts {
		for _, f := range l.fields {
			if f.goName != "" {
				continue
			}
			n++
			if want[f.c] != f.offset {
				t.Errorf("%s.%s is at %d, the code expects %d", l.c, f.c, f.offset, want[f.c])
			}
		}
	}
	if n != len(want) {
		t.Errorf("%d offsets in the headers, %d in the code", n, len(want))
	}
}

// TestGeneratedIsCurrent generates anew from this host's headers, whatever their version.
func TestGeneratedIsCurrent(t *testing.T) {
	if _, err := exec.LookPath("cc"); err != nil {
		t.Skip("no C compiler")
	}
	if _, err := os.Stat("/usr/include/linux/kvm.h"); err != nil {
		t.Skip("no kernel headers")
	}
	dir := t.TempDir()
	if out, err := exec.Command("go", "run", "./genabi", "-dir", dir).CombinedOutput(); err != nil {
		t.Fatalf("genabi: %v: %s", err, out)
	}
	for _, name := range []string{"zabi_linux_amd64.go", "zabi_linux_amd64_test.go"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s is not what the headers say; run `make generate`", name)
		}
	}
}
