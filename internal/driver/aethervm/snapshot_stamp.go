package aethervm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/aethervm/aether/internal/snapshot"
)

// maxStamp bounds what is read of a stamp, in bytes.
const maxStamp = 4 << 10

// stamp says which file was found to be whole. The kernel changes the time of modification with whatever is written to a file.
// It could be set back, but who does that with a file of his own could write a stamp too. The time of change, which nobody can
// set, is of no use: it changes as well when the file gets or loses a name, as bases do.
type stamp struct {
	Digest   string `json:"digest"`
	Device   uint64 `json:"device"`
	Inode    uint64 `json:"inode"`
	Size     int64  `json:"size"`
	Modified int64  `json:"modified"` // ns

	allocated int64
}

func stampOf(f *os.File, digest string) (stamp, error) {
	info, err := f.Stat()
	if err != nil {
		return stamp{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, fmt.Errorf("%s: no file of the kernel's", f.Name())
	}
	return stamp{Digest: digest, Device: st.Dev, Inode: st.Ino, Size: st.Size, Modified: st.Mtim.Nano(), allocated: st.Blocks * 512}, nil
}

// same tells whether two are of the same file, to which nobody has written in between.
func (s stamp) same(other stamp) bool {
	s.allocated, other.allocated = 0, 0
	return s == other
}

// write writes the stamp to a file of a directory.
func (s stamp) write(dir, name string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	// Whoever has made the directory may have laid a link there.
	f, err := os.CreateTemp(dir, "."+name+".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// readStamp reads the stamp in a file of a directory. What cannot be read is that of no file.
func readStamp(dir, name string) (s stamp) {
	f, err := snapshot.OpenRegular(filepath.Join(dir, name))
	if err != nil {
		return stamp{}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxStamp))
	if err != nil || json.Unmarshal(b, &s) != nil {
		return stamp{}
	}
	return s
}

// verifyOnce reads the memory of a file, and compares it with its checksums, unless it is the file that was found whole
// before, or that this program has written there, and nobody has written to it since. Its stamp is in the file of that name.
func verifyOnce(ctx context.Context, dir, name string, f *snapshot.File) error {
	now, err := stampOf(f.File(), f.Digest())
	if err != nil {
		return err
	}
	if now.same(readStamp(dir, name)) {
		return nil
	}
	if err := f.Verify(ctx); err != nil {
		return err
	}
	_ = now.write(dir, name) // else it is read again the next time
	return nil
}
