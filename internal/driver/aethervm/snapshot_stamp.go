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

// stamp says which file was found to be whole. The kernel changes the time of change with whatever is written to a file, and
// nobody can set it.
type stamp struct {
	Digest  string `json:"digest"`
	Device  uint64 `json:"device"`
	Inode   uint64 `json:"inode"`
	Size    int64  `json:"size"`
	Changed int64  `json:"changed"` // ns

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
	return stamp{Digest: digest, Device: st.Dev, Inode: st.Ino, Size: st.Size, Changed: st.Ctim.Nano(), allocated: st.Blocks * 512}, nil
}

func (s stamp) write(dir string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	// Whoever has made the directory may have laid a link there.
	f, err := os.CreateTemp(dir, "."+stampName+".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, stampName))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// readStamp reads the stamp of a directory. What cannot be read is that of no file.
func readStamp(dir string) (s stamp) {
	f, err := snapshot.OpenRegular(filepath.Join(dir, stampName))
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
// before, or that this program has written there, and nobody has written to it since.
func verifyOnce(ctx context.Context, dir string, f *snapshot.File) error {
	now, err := stampOf(f.File(), f.Digest())
	if err != nil {
		return err
	}
	now.allocated = 0
	if readStamp(dir) == now {
		return nil
	}
	if err := f.Verify(ctx); err != nil {
		return err
	}
	_ = now.write(dir) // else it is read again the next time
	return nil
}
