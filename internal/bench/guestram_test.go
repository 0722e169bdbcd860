package bench

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

func TestGuestRAMIsToldApart(t *testing.T) {
	const size, touched = 96 << 20, 8 << 20
	mem, err := unix.Mmap(-1, 0, size+2*4096, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	ram := mem[4096 : 4096+size]
	if err := unix.Mprotect(ram, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		t.Fatal(err)
	}
	// Advice for a part splits the mapping.
	if err := unix.Madvise(ram[size/2:], unix.MADV_DONTDUMP); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < touched; i += 4096 {
		ram[i], ram[size-1-i] = 1, 1
	}
	m, err := hostMemory{}.process(sandbox.HostProcess{PID: os.Getpid(), GuestRAM: size})
	if err != nil {
		t.Fatal(err)
	}
	if !m.known || m.guest < 2*touched || m.guest > 2*touched+4<<20 || m.pss <= m.guest {
		t.Errorf("got %+v, want about %d bytes of a guest", m, 2*touched)
	}
	if m, err = (hostMemory{}).process(sandbox.HostProcess{PID: os.Getpid(), GuestRAM: size + 4096}); err != nil || m.known {
		t.Errorf("a guest of another size: %+v, %v", m, err)
	}
}

func TestFindRAM(t *testing.T) {
	const smaps = `7f0000000000-7f0000400000 r--s 00000000 00:01 7 /memfd:x (deleted)
Pss:                 100 kB
7f0000400000-7f0000800000 rw-s 00000000 00:01 8 /memfd:ram (deleted)
Size:               4096 kB
Pss:                  10 kB
Pss_Dirty:             9 kB
7f0000800000-7f0000c00000 rw-s 00400000 00:01 8 /memfd:ram (deleted)
Pss:                   5 kB
7f0000c00000-7f0001000000 rw-p 00000000 00:00 0
Pss:                   3 kB
VmFlags: rd wr
`
	for size, want := range map[int64]int64{8 << 20: 15 << 10, 4 << 20: 3 << 10, 2 << 20: -1} {
		pss, known, err := findRAM(strings.NewReader(smaps), size)
		if err != nil || known != (want >= 0) || known && pss != want {
			t.Errorf("%d bytes: %d, %v, %v; want %d", size, pss, known, err, want)
		}
	}
	if _, _, err := findRAM(strings.NewReader("Pss: many kB\n"), 1); err == nil {
		t.Error("nonsense was read")
	}
}
