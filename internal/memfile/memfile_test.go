package memfile

import (
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSealed(t *testing.T) {
	f, err := Sealed("test", func(f *os.File) error {
		_, err := f.WriteString("content")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(io.NewSectionReader(f, 0, 100)); err != nil || string(got) != "content" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("it can be written: %v", err)
	}
	for _, size := range []int64{1, 100} {
		if err := f.Truncate(size); !errors.Is(err, unix.EPERM) {
			t.Errorf("it can be resized: %v", err)
		}
	}
	if f, err := Sealed("test", func(*os.File) error { return io.ErrShortWrite }); f != nil || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("%v, %v of one that was not written", f, err)
	}
}
