// Package cellbinary gives the host the program that a cell's process executes: the static binary of
// cmd/aether-cell, which has nothing but the cell. What a process maps of a program, and what the
// program's packages do before main, counts for every virtual machine.
package cellbinary

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// `make agent` puts the binary into bin/ before the host's binary is built. The directory is
// embedded with its .gitkeep so that the package compiles without it too.
//
//go:embed all:bin
var bin embed.FS

var (
	mu      sync.Mutex
	program *os.File
)

// Open returns the program as a file in memory, which nobody can change. There is one for all cells of
// this process, whose text they thus share; it stays open, and must not be closed. Safe for concurrent
// use.
func Open() (*os.File, error) {
	mu.Lock()
	defer mu.Unlock()
	if program != nil {
		return program, nil
	}
	content, err := bin.ReadFile("bin/aether-cell")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("this binary was built without the program of cells (build it with `make build`)")
	}
	if err == nil {
		program, err = inMemory(content)
	}
	if err != nil {
		return nil, fmt.Errorf("open the program of cells: %w", err)
	}
	return program, nil
}

// inMemory makes a file of content that can be executed, and is sealed.
func inMemory(content []byte) (_ *os.File, err error) {
	const flags, name = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING, "aether-cell"
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // Linux before 6.3, where all can be executed
		fd, err = unix.MemfdCreate(name, flags)
	}
	if errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("memfd_create: %w: set the sysctl vm.memfd_noexec to 1 or 0", err)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if _, err := f.Write(content); err != nil {
		return nil, err
	}
	if err := f.Chmod(0o555); err != nil { // the process that executes it has a user of its own
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return f, nil
}
