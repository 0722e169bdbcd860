package cell

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/failcalls"
	"github.com/aethervm/aether/internal/snapshot"
)

const (
	// createVM is KVM_CREATE_VM, which makes a virtual machine, and setMemory KVM_SET_USER_MEMORY_REGION, which gives it
	// memory: until then it is nobody's.
	createVM  = 0xae01
	setMemory = 0x4020ae46
)

// refuseFile has the owner restore a file and tells whether that was refused, and whether a virtual machine was made, or
// given memory. What it leaves is an error.
func (r *faultRig) refuseFile(t *testing.T, what string, content []byte, request uint64) (refused, machine bool) {
	t.Helper()
	if err := os.Remove(r.saved); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.saved, content, 0o400); err != nil {
		t.Fatal(err)
	}
	r.calls.Fail(func(c failcalls.Call) bool { return c.Number == unix.SYS_IOCTL && c.Args[1] == request }, 1<<30, 0)
	a := r.ask(t, "restore")
	_, machines, err := r.calls.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if a.Deadline {
		t.Errorf("%s: it hangs: %s", what, a.Err)
	}
	if l := r.ask(t, "look"); l.Wrong != "" || len(l.Files) != r.files {
		t.Errorf("%s: %d descriptors, %d before; %s", what, len(l.Files), r.files, l.Wrong)
	}
	return a.Err != "", machines > 0
}

// A saved branch that is cut anywhere, or of which a bit is another one, is refused before there is a virtual machine. One whose
// checksums were made anew, for a state that is cut, is refused before there is one with memory.
func TestDamagedFiles(t *testing.T) {
	r := newFaultRig(t)
	whole, err := os.ReadFile(r.saved)
	if err != nil {
		t.Fatal(err)
	}
	f, err := snapshot.Open(r.saved)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	begin, size := f.Memory()
	if refused, _ := r.refuseFile(t, "whole", whole, createVM); refused {
		t.Fatal("a file that is whole is refused")
	}
	before := func(what string, content []byte, request uint64) {
		t.Helper()
		if refused, machine := r.refuseFile(t, what, content, request); !refused || machine {
			t.Errorf("%s: refused: %v; there was a virtual machine: %v", what, refused, machine)
		}
	}
	cuts := []uint64{0, 1, 7, 8, 11, 12, 100, begin - 1, begin, begin + 1, begin + size/2, begin + size - 1, begin + size, begin + size + 1}
	for range 12 {
		cuts = append(cuts, rand.Uint64N(uint64(len(whole))))
	}
	for _, at := range append(cuts, uint64(len(whole))-1, uint64(len(whole))-snapshot.PageSize) {
		before(fmt.Sprintf("cut at %d of %d", at, len(whole)), whole[:at], createVM)
	}
	// The header has 248 bytes and its digest the last 32 of its page; sections follow the memory.
	flips := []uint64{0, 8, 9, 12, 16, 24, begin - 1, begin - 32, begin, begin + size - 1}
	for range 12 {
		flips = append(flips, begin+rand.Uint64N(size), rand.Uint64N(200), begin+size+rand.Uint64N(uint64(len(f.State))))
	}
	for _, at := range flips {
		b := bytes.Clone(whole)
		b[at] ^= 1 << rand.N(8)
		before(fmt.Sprintf("byte %d of %d", at, len(whole)), b, createVM)
	}
	for _, n := range []int{1, 4, 16, 100, len(f.State) / 2, len(f.State) - 1} {
		before(fmt.Sprintf("%d bytes of state", n), resealed(t, f, f.State[:n]), setMemory)
	}
	before("a longer state", resealed(t, f, append(bytes.Clone(f.State), 0)), setMemory)
	// A state of another machine's is as good as any guest's: it is refused or runs, and nothing is left of it.
	accepted := 0
	for range 16 {
		state := bytes.Clone(f.State)
		at := rand.N(len(state))
		state[at] ^= 1 << rand.N(8)
		if refused, _ := r.refuseFile(t, fmt.Sprintf("byte %d of the state", at), resealed(t, f, state), createVM); !refused {
			accepted++
		}
	}
	t.Logf("%d of 16 states with another bit are machines", accepted)
	if refused, _ := r.refuseFile(t, "whole", whole, createVM); refused {
		t.Error("a file that is whole is refused")
	}
}

// resealed is a file with another state, and checksums that fit.
func resealed(t *testing.T, f *snapshot.File, state []byte) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "machine")
	w, err := snapshot.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	begin, size := f.Memory()
	_, err = w.WriteMemory(t.Context(), []snapshot.Extent{{Size: size, Source: io.NewSectionReader(f.File(), int64(begin), int64(size))}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(f.About, state, nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
