package pid1

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Where programs look for what tells machines apart: machine-id(5), of systemd and of D-Bus, and random(4).
const (
	machineIDFile     = "/etc/machine-id"
	dbusMachineIDFile = "/var/lib/dbus/machine-id"
	bootIDFile        = "/proc/sys/kernel/random/boot_id"
	uuidFile          = "/proc/sys/kernel/random/uuid"
)

// renew gives a copy of a machine IDs of its own. Programs are frozen, and the kernel's random numbers are this
// copy's already. The caller holds m.mu.
func (m *machine) renew(machineID [16]byte) error {
	if err := setMachineID(machineIDFile, machineID); err != nil {
		return err
	}
	// Usually a link to the other one, if it is there at all.
	if info, err := os.Lstat(dbusMachineIDFile); err == nil && info.Mode().IsRegular() {
		if err := setMachineID(dbusMachineIDFile, machineID); err != nil {
			return err
		}
	}
	if err := m.renewBootID(); err != nil {
		return fmt.Errorf("set the boot ID: %w", err)
	}
	return nil
}

// setMachineID writes a machine ID, in place of whatever the image has there, a link too.
func setMachineID(path string, id [16]byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set the machine ID: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // an image without /etc
	}
	if err == nil {
		_, err = fmt.Fprintln(f, hex.EncodeToString(id[:]))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("set the machine ID: %w", err)
	}
	return nil
}

// renewBootID hides the kernel's boot ID, which cannot be changed, behind a file with another one. The file is
// where no program can reach it, and the same for as long as the machine and its copies live.
func (m *machine) renewBootID() error {
	id, err := os.ReadFile(uuidFile) // a new one with each read
	if err != nil {
		return err
	}
	if m.bootID != nil {
		_, err := m.bootID.WriteAt(id, 0)
		return err
	}
	return m.hideBootID(id)
}

// hideBootID makes the file, with an ID as the kernel writes it. The caller holds m.mu.
func (m *machine) hideBootID(id []byte) error {
	fd, err := unix.Openat(int(m.changes.Fd()), "boot-id", unix.O_CREAT|unix.O_RDWR|unix.O_TRUNC|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "boot-id")
	_, err = f.Write(id)
	if err == nil {
		err = unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), bootIDFile, "", unix.MS_BIND, "")
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	m.bootID = f
	return nil
}

// rehearse does ahead, in the original, what each copy would otherwise be the first one to do when it is told who it is:
// it hides the boot ID behind a file that holds the same one, and has the kernel know, and the overlay have a place for,
// what renew reads and writes. Programs can tell by the mount, and by the time at which /etc was changed, which is none of
// its content's. It is done once in the life of a machine and its copies, and a wish: what fails here is tried again in a
// copy, which says why. The caller holds m.mu, and the programs are frozen.
func (m *machine) rehearse() {
	if m.rehearsed || m.changes == nil {
		return
	}
	m.rehearsed = true
	if m.bootID == nil {
		if id, err := os.ReadFile(bootIDFile); err == nil {
			_ = m.hideBootID(id)
		}
	}
	_, _ = os.ReadFile(uuidFile)
	for _, name := range []string{machineIDFile, dbusMachineIDFile} {
		_, _ = os.Lstat(name)
	}
	// The mode that it has: nothing changes, but the directory is in the upper layer from now on.
	dir := filepath.Dir(machineIDFile)
	var st unix.Stat_t
	if unix.Lstat(dir, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		_ = unix.Chmod(dir, st.Mode&0o7777)
	}
}
