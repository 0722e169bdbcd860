package files

import (
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// aliveEvery is how many bytes are read between two signs of life.
const aliveEvery = 4 << 20

// digest is the SHA-256 of a regular file of so many bytes; empty if it is another file, or becomes one meanwhile.
func digest(at *os.File, name string, size int64, alive func() error) (string, error) {
	fd, err := retry(func() (int, error) {
		// O_NONBLOCK: opening a FIFO that has taken the file's place must not hang.
		return unix.Openat(int(at.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	})
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO), gone(err):
		return "", nil
	case err != nil:
		return "", &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() != size {
		return "", err
	}
	sum := sha256.New()
	buf := make([]byte, min(size, 256<<10-1)+1)
	var read, said int64
	for {
		n, err := f.Read(buf)
		sum.Write(buf[:n])
		if read += int64(n); read > size {
			return "", nil
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		if read-said >= aliveEvery {
			said = read
			if err := alive(); err != nil {
				return "", err
			}
		}
	}
	if read != size {
		return "", nil
	}
	return string(sum.Sum(nil)), nil
}

// retry does a system call again for as long as signals interrupt it.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func timeOf(t unix.Timespec) time.Time { return time.Unix(t.Unix()) }
