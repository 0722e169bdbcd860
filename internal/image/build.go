package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/lease"
)

// Progress tells how far a build is.
type Progress struct {
	// Phase is what is being done: "open", "unpack", "digest", "store".
	Phase string
	// Done and Total are bytes, counted from 0 in each phase; Total is 0 if it is not known.
	Done, Total int64
}

// A build is one run of Build.
type build struct {
	store    *Store
	limits   limits
	progress *meter
}

// Build makes an image from source and gives it a name, which it takes from another image if need
// be. A source is a directory, a tarball (plain, gzip, zstd or xz) of a root file system, an OCI
// layout or a tarball of one, a tarball by `docker save`, or a registry reference. Of an image for
// several platforms linux/amd64 is taken.
//
// If the store has the same tree already, only the name is new. progress, which may be nil, is
// called now and then, by one goroutine at a time. On error, and when ctx ends, the store is as it
// was.
func (s *Store) Build(ctx context.Context, name, source string, progress func(Progress)) (Entry, error) {
	return s.build(ctx, name, source, progress, defaultLimits())
}

func (s *Store) build(ctx context.Context, name, source string, progress func(Progress), lim limits) (e Entry, err error) {
	if err := checkName(name); err != nil {
		return e, err
	}
	defer func() {
		if err != nil {
			err = fail("build image", name, err)
		}
	}()
	for _, dir := range []string{s.dir, filepath.Join(s.dir, namesName), filepath.Join(s.dir, tmpName)} {
		if err := makeDir(dir); err != nil {
			return e, err
		}
	}
	if _, err := s.Sweep(); err != nil {
		return e, err
	}
	work, err := lease.Acquire(filepath.Join(s.dir, tmpName))
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, work.Release()) }()

	b := &build{store: s, limits: lim, progress: &meter{report: progress}}
	b.progress.phase("open", 0)
	src, err := b.openSource(ctx, source, filepath.Join(work.Dir, "archive"))
	if err != nil {
		return e, err
	}
	if src.close != nil {
		defer func() { err = errors.Join(err, src.close()) }()
	}
	dir := filepath.Join(work.Dir, "image")
	if e, err = b.make(ctx, src, dir); err != nil {
		return e, err
	}
	e.Source, e.Created = source, time.Now().UTC().Truncate(time.Second)
	b.progress.phase("store", 0)
	if err := writeMeta(dir, e); err != nil {
		return e, err
	}
	if err := s.publish(ctx, work.Dir, dir, name, e.Digest); err != nil {
		return e, err
	}
	return s.entry(e.Digest)
}

// make unpacks src into a new directory that has the form of an image in the store.
func (b *build) make(ctx context.Context, src *source, dir string) (e Entry, err error) {
	private := filepath.Join(dir, privateName)
	rootfs := filepath.Join(private, rootfsName)
	for _, d := range []string{dir, filepath.Join(dir, cacheName), private, rootfs} {
		if err := makeDir(d); err != nil {
			return e, err
		}
	}
	if err := os.Chmod(private, 0o700); err != nil {
		return e, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return e, err
	}
	if err := errors.Join(lock.Chmod(0o644), lock.Close()); err != nil {
		return e, err
	}
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()

	x := newExtractor(root, b.limits)
	var total int64
	for _, l := range src.layers {
		total += l.size
	}
	b.progress.phase("unpack", total)
	for _, l := range src.layers {
		if err := b.unpack(ctx, x, l, src.oci); err != nil {
			return e, err
		}
	}
	if err := x.finish(); err != nil {
		return e, err
	}
	b.progress.phase("digest", x.bytes)
	a := archiver{root: root, squash: os.Geteuid() != 0}
	sum := sha256.New()
	if err := a.write(ctx, io.MultiWriter(sum, b.progress)); err != nil {
		return e, err
	}
	if a.files == 0 {
		return e, bad("it holds no files")
	}
	e = Entry{Bytes: a.blocks, Files: a.files, Notes: x.notes()}
	env, dropped := cleanEnv(src.env)
	if e.Env = env; dropped > 0 {
		e.Notes = append(e.Notes, fmt.Sprintf("%d malformed environment entries not kept", dropped))
	}
	// Two images of one tree that differ in their environment are two images.
	for _, kv := range env {
		_, _ = io.WriteString(sum, kv+"\x00") // a hash never fails
	}
	e.Digest = digestPrefix + hex.EncodeToString(sum.Sum(nil))
	return e, nil
}

func writeMeta(dir string, e Entry) error {
	raw, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(dir, metaName)
	if err := os.WriteFile(name, append(raw, '\n'), 0o644); err != nil {
		return err
	}
	return os.Chmod(name, 0o644)
}

// publish moves the finished image in dir to its place and names it. What is published is whole
// even if the host loses power in the next moment. work is a directory on the same file system.
func (s *Store) publish(ctx context.Context, work, dir, name, digest string) (err error) {
	if err := syncFS(dir); err != nil {
		return err
	}
	lock, err := s.lockStore(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	target := s.path(digest)
	if _, err := s.read(digest); err != nil {
		// Not there; or damaged, then it makes way.
		if err := os.Rename(target, filepath.Join(work, "damaged")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Rename(dir, target); err != nil {
			return err
		}
	}
	link := filepath.Join(work, "name")
	if err := os.Symlink(filepath.Join("..", filepath.Base(target)), link); err != nil {
		return err
	}
	if err := os.Rename(link, s.namePath(name)); err != nil {
		return err
	}
	return errors.Join(syncDir(s.dir), syncDir(filepath.Join(s.dir, namesName)))
}

// Sweep removes what builds and removals left behind whose processes died, and returns how many
// they were. Build and Remove do so too.
func (s *Store) Sweep() (int, error) {
	dead, err := lease.Dead(filepath.Join(s.dir, tmpName))
	for _, l := range dead {
		err = errors.Join(err, l.Release())
	}
	if err != nil {
		return 0, fail("sweep images", s.dir, err)
	}
	return len(dead), nil
}

// makeDir makes a directory, and those above, that everybody can enter whatever the umask: virtual
// machine monitors without privileges read disk images below. One that exists is left as it is.
func makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
		return nil // another process was faster; if it is no directory the next step says so
	} else if err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// syncFS writes out everything on the file system of dir.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// A meter reports progress, not more often than is of use.
type meter struct {
	report func(Progress)

	mu   sync.Mutex
	now  Progress
	last time.Time
}

func (m *meter) phase(name string, total int64) {
	m.update(true, func() { m.now = Progress{Phase: name, Total: total} })
}

func (m *meter) add(n int) { m.update(false, func() { m.now.Done += int64(n) }) }

func (m *meter) Write(p []byte) (int, error) {
	m.add(len(p))
	return len(p), nil
}

func (m *meter) update(must bool, change func()) {
	if m.report == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	if must || time.Since(m.last) >= 100*time.Millisecond {
		m.last = time.Now()
		m.report(m.now)
	}
}
