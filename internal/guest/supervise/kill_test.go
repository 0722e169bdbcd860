package supervise

import (
	"os"
	"testing"
)

func TestParseParent(t *testing.T) {
	for _, c := range []struct {
		stat string
		ppid int
		ok   bool
	}{
		{"12 (sh) S 7 12 12", 7, true},
		{"12 (odd) name) 3 (x) R 9 1", 9, true},
		{"12 (sh)", 0, false},
		{"", 0, false},
		{"12 (sh) S x", 0, false},
	} {
		if ppid, ok := parseParent([]byte(c.stat)); ppid != c.ppid || ok != c.ok {
			t.Errorf("%q: %d, %v", c.stat, ppid, ok)
		}
	}
	if ppid, ok := parentOf(os.Getpid()); !ok || ppid != os.Getppid() {
		t.Errorf("own parent: %d, %v; want %d", ppid, ok, os.Getppid())
	}
}

func FuzzParseParent(f *testing.F) {
	f.Add([]byte("1 (a) S 2 3"))
	f.Fuzz(func(_ *testing.T, stat []byte) { parseParent(stat) })
}
