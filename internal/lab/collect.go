package lab

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/aethervm/aether/internal/lab/guest"
)

// errNoReport: the machine ended too early.
var errNoReport = errors.New("no report")

const maxReport = 64 << 10

// readReport reads what the guest sends at its end: how the program ended and, if out is not nil,
// an archive, whose files it writes below out. They may take up so many bytes.
func readReport(r io.Reader, out *os.Root, limit int64) (guest.Report, error) {
	var report guest.Report
	buffer := bufio.NewReaderSize(r, maxReport)
	line, err := buffer.ReadSlice('\n')
	if errors.Is(err, io.EOF) {
		return report, errNoReport
	}
	if err == nil {
		err = json.Unmarshal(line, &report)
	}
	if err != nil {
		return report, fmt.Errorf("read the lab's report: %w", err)
	}
	if report.Code < -1 || report.Code > 255 || report.Signal < 0 || report.Signal > 64 || report.Run < 0 || report.Boot < 0 {
		return report, errors.New("read the lab's report: values out of range")
	}
	if out == nil {
		return report, nil
	}
	archive := tar.NewReader(buffer)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return report, nil
		}
		if err != nil {
			return report, fmt.Errorf("read the lab's files: %w", err)
		}
		if limit -= header.Size; limit < 0 {
			return report, errors.New("read the lab's files: more than the lab has memory for")
		}
		if err := extract(out, header, archive); err != nil {
			return report, fmt.Errorf("write %s of the lab: %w", header.Name, err)
		}
	}
}

// extract writes one member of an archive. A file that is there already is replaced, not written
// to. No link leads out of root, since root follows none.
func extract(root *os.Root, header *tar.Header, content io.Reader) error {
	name := filepath.Clean(header.Name)
	if !filepath.IsLocal(name) || name == "." {
		return errors.New("not a relative path")
	}
	mode := header.FileInfo().Mode().Perm()
	if header.Typeflag == tar.TypeDir {
		// Its owner can write to it until the next run at least.
		err := root.Mkdir(name, mode|0o700)
		if info, statErr := root.Lstat(name); errors.Is(err, fs.ErrExist) && statErr == nil && info.IsDir() {
			return nil
		}
		return err
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch header.Typeflag {
	case tar.TypeSymlink:
		return root.Symlink(header.Linkname, name)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	}
	return fmt.Errorf("unexpected type %q", header.Typeflag)
}
