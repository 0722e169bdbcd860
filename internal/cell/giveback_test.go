package cell

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/microguest"
)

// toggler is a guest that changes a page at 24 MiB and changes it back, and one at 25 MiB for good, says "on", waits, and begins again.
func toggler() []byte {
	loop := slices.Concat(operand(24<<20, 0xbe), []byte{0xff, 0x06, 0xff, 0x0e}, // mov esi, 24 MiB; inc dword [rsi]; dec dword [rsi]
		operand(25<<20, 0xbe), []byte{0xff, 0x06}, microguest.Say("on\n"), delay(1<<14))
	return slices.Concat(microguest.Say("up\n"), loop, operand(-uint32(len(loop)+5), 0xe9)) // jmp to the beginning
}

// A copy that stands still gives back what it has changed and changed back, and goes on.
func TestGiveBack(t *testing.T) {
	parent := startGuest(t, nil, toggler())
	waitConsole(t, parent, "on")
	if n, err := parent.GiveBack(t.Context()); err != nil || n != 0 {
		t.Errorf("a guest that has booted has given back %d bytes, %v", n, err)
	}
	b, err := parent.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, b)
	var said safeBuffer
	c, err := Start(t.Context(), Config{ID: testID + "-1", Program: program(t), From: b, Console: &said})
	if err != nil {
		t.Fatal(err)
	}
	given := uint64(0)
	for begin := time.Now(); given == 0; { // it is stopped between the two changes, once in a while
		saysMore(t, c, &said)
		if err := c.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if given, err = c.GiveBack(t.Context()); err != nil {
			t.Fatal(err)
		}
		own := ownPages(t, c)
		if err := c.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		if given > 0 && !own[25<<20] {
			t.Error("it has given back what it has changed")
		}
		if given > 0 && own[24<<20] {
			t.Error("it has not given back what is as it was")
		}
		if time.Since(begin) > 20*time.Second {
			t.Fatal("it gives nothing back")
		}
	}
	saysMore(t, c, &said)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.GiveBack(t.Context()); !errors.Is(err, ErrEnded) {
		t.Errorf("of a closed cell: %v", err)
	}
}

// ownPages are the pages of RAM that the guest has written, by their addresses.
func ownPages(t *testing.T, c *Cell) map[uint64]bool {
	t.Helper()
	touched, err := c.Touched(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	own := map[uint64]bool{}
	for _, r := range touched {
		for at := r.RAM; r.Write && at < r.RAM+r.Size; at += 4096 {
			own[at] = true
		}
	}
	return own
}
