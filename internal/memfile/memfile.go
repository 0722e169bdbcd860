// Package memfile makes files that are in memory only, and that nobody can change once they are made, so that they
// can be handed to processes of less trust.
package memfile

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Sealed makes a file of what fill writes to it. name is for messages. When fill has returned, the file can be
// neither written nor resized any more, whoever has it open. It is closed at an exec.
func Sealed(name string, fill func(*os.File) error) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make %s, a file in memory: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err = fill(f); err == nil {
		const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make %s, a file in memory: %w", name, err), f.Close())
	}
	return f, nil
}
