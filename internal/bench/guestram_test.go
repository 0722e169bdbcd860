package bench

import (
	"os"
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
