package cellbinary

import (
	"errors"
	"os"
	"os/exec"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestInMemory(t *testing.T) {
	content, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	f, err := inMemory(content)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("it can be written: %v", err)
	}
	if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("it can be cut: %v", err)
	}
	cmd := exec.Command("/proc/self/fd/3", "-test.list=^TestOnce$")
	cmd.ExtraFiles = []*os.File{f}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "TestOnce\n" {
		t.Errorf("executed: %q, %v", out, err)
	}
}

func TestOnce(t *testing.T) {
	if _, err := bin.ReadFile("bin/aether-cell"); err != nil {
		if _, err := Open(); err == nil {
			t.Error("there is a program of cells that was not built")
		}
		return
	}
	var files [8]*os.File
	var tasks sync.WaitGroup
	for i := range files {
		tasks.Go(func() { files[i], _ = Open() })
	}
	tasks.Wait()
	for _, f := range files {
		if f == nil || f != files[0] {
			t.Fatalf("not one file: %v", files)
		}
	}
}

// What the program has counts for every virtual machine.
func TestSmall(t *testing.T) {
	content, err := bin.ReadFile("bin/aether-cell")
	if err != nil {
		t.Skip("it was not built")
	}
	const limit = 8 << 20
	if len(content) > limit {
		t.Errorf("it has %d bytes: which package has come in? see `go list -deps ./cmd/aether-cell`", len(content))
	}
}
