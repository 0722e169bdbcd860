package kvm

import (
	"errors"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

// Every request that is generated is one that the filter allows, and no other but those that headers may be too old for.
func TestRequestsAreAll(t *testing.T) {
	text, err := os.ReadFile("zabi_linux_amd64.go")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("the source is not here")
	}
	if err != nil {
		t.Fatal(err)
	}
	want := []uintptr{ioPreFaultMemory}
	for _, m := range regexp.MustCompile(`(?m)^\tio[A-Z]\w+\s*= (0x[0-9a-f]+)`).FindAllSubmatch(text, -1) {
		n, err := strconv.ParseUint(string(m[1]), 0, 32)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, uintptr(n))
	}
	got := Requests()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%#x\nis not\n%#x", got, want)
	}
}
