package lab

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestMendInterrupts(t *testing.T) {
	around := bytes.Repeat([]byte{0x89, 0xb3}, 100)
	once := slices.Concat(around, vmrunInjection, around)
	for _, c := range []struct {
		name    string
		content []byte
		known   bool
	}{
		{"once", once, true},
		{"not at all", around, false},
		{"twice", slices.Concat(once, once), false},
		{"cut off", once[:len(around)+len(vmrunInjection)-1], false},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "qemu")
			if err := os.WriteFile(name, c.content, 0o755); err != nil {
				t.Fatal(err)
			}
			known, err := mendInterrupts(name)
			if err != nil || known != c.known {
				t.Fatalf("known %v, error %v", known, err)
			}
			want := slices.Clone(c.content)
			if c.known {
				copy(want[len(around):], noOperation)
			}
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the file is not as expected (%v)", err)
			}
		})
	}
	if len(noOperation) != 6 { // the length of the first of the three instructions
		t.Errorf("%d bytes replace one instruction", len(noOperation))
	}
}
