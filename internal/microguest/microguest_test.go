package microguest

import (
	"bytes"
	"debug/elf"
	"slices"
	"testing"
)

func TestKernel(t *testing.T) {
	code := slices.Concat(Say("a"), PowerOff())
	f, err := elf.NewFile(bytes.NewReader(Kernel(Say("a"), PowerOff())))
	if err != nil {
		t.Fatal(err)
	}
	if f.Entry != Entry || len(f.Progs) != 1 || f.Progs[0].Paddr != Entry || f.Progs[0].Filesz != uint64(len(code)) {
		t.Errorf("%+v, %+v", f.FileHeader, f.Progs)
	}
	got := make([]byte, len(code))
	if _, err := f.Progs[0].ReadAt(got, 0); err != nil || !bytes.Equal(got, code) {
		t.Errorf("%x, want %x (%v)", got, code, err)
	}
}
