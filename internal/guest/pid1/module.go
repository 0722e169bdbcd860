package pid1

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// moduleList is a file of the initramfs that names kernel modules, one a line, in the order in
// which they are to be loaded. They lie beside it, uncompressed.
const moduleList = "/modules/order"

// loadModules loads the modules of a list. A missing list is one of a kernel that needs none. before is
// called with the name of each.
func loadModules(list string, before func(name string) error) error {
	text, err := os.ReadFile(list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(text)) {
		if err := before(name); err != nil {
			return err
		}
		if err := loadModule(filepath.Join(filepath.Dir(list), name+".ko")); err != nil {
			return err
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return insertModule(f)
}

func insertModule(f *os.File) error {
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load kernel module %s: %w", f.Name(), err)
	}
	return nil
}

// lateList is a file as moduleList. It names what the machine can begin without.
const lateList = "/modules/late"

// lateDelay is how long after the machine began to serve the late modules are loaded: its first
// programs are not to wait for them.
const lateDelay = time.Second

// lateModules are modules that are loaded when they are wanted, or later. The nil pointer has none.
type lateModules struct {
	files []*os.File // read only

	loading sync.Once
	err     error
}

// openLateModules opens the modules of a list, since they are out of sight in the root to come. A
// missing list is an empty one.
func openLateModules(list string) (*lateModules, error) {
	text, err := os.ReadFile(list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l := &lateModules{}
	for name := range strings.FieldsSeq(string(text)) {
		f, err := os.Open(filepath.Join(filepath.Dir(list), name+".ko"))
		if err != nil {
			return nil, errors.Join(err, l.close())
		}
		l.files = append(l.files, f)
	}
	return l, nil
}

// load loads them all. It is idempotent, and may be called concurrently; every call returns the same.
func (l *lateModules) load() error {
	if l == nil {
		return nil
	}
	l.loading.Do(func() {
		var errs []error
		for _, f := range l.files {
			errs = append(errs, insertModule(f))
		}
		l.err = errors.Join(append(errs, l.close())...)
	})
	return l.err
}

func (l *lateModules) close() error {
	var errs []error
	for _, f := range l.files {
		errs = append(errs, f.Close())
	}
	l.files = nil
	return errors.Join(errs...)
}
