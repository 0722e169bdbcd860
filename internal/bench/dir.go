package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/filelock"
)

// Names in a results directory.
const (
	planName    = "run.json"
	summaryName = "summary.json"
	samplesName = "samples.jsonl"
	textName    = "bench.txt"
	probesDir   = "probes"
	jobsDir     = "jobs"
	agentDir    = "agent"
)

// ErrBusy says that another process is writing to the results directory.
var ErrBusy = errors.New("results directory is in use")

// directory is a results directory that this process writes to. It is locked.
type directory struct {
	path    string
	lock    *os.File
	samples *os.File
}

// openDirectory creates or opens the directory at path and locks it. It writes nothing that
// another writer would miss: a busy directory is left as it is.
func openDirectory(path string) (*directory, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("open results directory: %w", err)
	}
	// The directory itself is locked, so that no lock file lies about in results.
	lock, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open results directory: %w", err)
	}
	if err := filelock.Try(lock, filelock.Exclusive); err != nil {
		_ = lock.Close()
		if errors.Is(err, filelock.ErrHeld) {
			return nil, fmt.Errorf("open %s: %w by another aether bench: wait for it or choose another --out", path, ErrBusy)
		}
		return nil, fmt.Errorf("lock results directory %s: %w", path, err)
	}
	return &directory{path: path, lock: lock}, nil
}

// close lets go of the directory.
func (d *directory) close() error {
	var err error
	if d.samples != nil {
		err = d.samples.Close()
	}
	return errors.Join(err, d.lock.Close())
}

// openSamples reads what the sample file holds, cuts off a last line that was not finished, and
// opens it for appending.
func (d *directory) openSamples() ([]Sample, error) {
	name := filepath.Join(d.path, samplesName)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open samples: %w", err)
	}
	samples, whole, err := readSamples(f)
	if err == nil {
		err = f.Truncate(whole)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open samples %s: %w", name, err)
	}
	d.samples = f
	return samples, nil
}

// append adds one line with a single write, so that a process that is killed leaves at most one
// line unfinished.
func (d *directory) append(s Sample) error {
	line, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write sample: %w", err)
	}
	if _, err := d.samples.Write(append(line, '\n')); err != nil {
		if errors.Is(err, unix.ENOSPC) {
			err = fmt.Errorf("%w: make room and run the same command again", err)
		}
		return fmt.Errorf("write sample: %w", err)
	}
	return nil
}

// sync makes the samples survive a crash of the host.
func (d *directory) sync() error {
	if err := d.samples.Sync(); err != nil {
		return fmt.Errorf("write samples: %w", err)
	}
	return nil
}

// read hands the content of a file of the directory to parse, if there is one.
func (d *directory) read(rel string, parse func([]byte) error) error {
	return readOptional(filepath.Join(d.path, rel), parse)
}

// writeJSON replaces the file at rel, a path inside the directory, as a whole.
func (d *directory) writeJSON(rel string, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write %s: %w", rel, err)
	}
	return d.writeFile(rel, b.Bytes())
}

// writeFile replaces the file at rel as a whole: a reader sees the old content or the new.
func (d *directory) writeFile(rel string, content []byte) error {
	name := filepath.Join(d.path, rel)
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write %s: %w", rel, err)
	}
	// One name for the unfinished file, not a random one: what a kill leaves is replaced by the
	// next writer, and the lock keeps others away.
	tmp := filepath.Join(dir, "."+filepath.Base(name)+".tmp")
	if err := writeSynced(tmp, content); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", rel, err), removeIfThere(tmp))
	}
	if err := os.Rename(tmp, name); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", rel, err), removeIfThere(tmp))
	}
	return syncDir(dir)
}

func writeSynced(name string, content []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func removeIfThere(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
