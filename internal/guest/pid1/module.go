package pid1

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load kernel module %s: %w", path, err)
	}
	return nil
}
