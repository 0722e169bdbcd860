// Package image keeps the guest images of this host. One image, an unpacked root file system known
// by the digest of its content, serves every system.
//
// The store is a directory:
//
//	sha256-<hex>/image.json      what the image is and where it came from
//	sha256-<hex>/private/rootfs  the tree; nobody writes to it
//	sha256-<hex>/cache           forms that drivers derived from it
//	sha256-<hex>/lock            locked, shared, by whoever uses the image
//	names/<name>                 symbolic link to ../sha256-<hex>
//	tmp/<lease>                  builds and removals in progress
//
// An image appears under its digest by one rename once it is whole, so whatever is interrupted
// leaves nothing but a lease, which the next writer sweeps away. The tree lies in a directory that
// only its owner can enter: a set-user-ID program of a guest must not be one of the host.
package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/sandbox"
)

// DefaultName is the name of the image that is used where none is given: Debian with Python.
const DefaultName = "debian-python"

const (
	metaName     = "image.json"
	privateName  = "private"
	rootfsName   = "rootfs"
	cacheName    = "cache"
	lockName     = "lock"
	namesName    = "names"
	tmpName      = "tmp"
	digestPrefix = "sha256:"
	dirPrefix    = "sha256-"
	// The fewest digits by which an image can be called.
	minDigits = 8
)

var (
	nameRE   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	digestRE = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// Store is a directory of images. Its methods may be called concurrently, also from several
// processes.
type Store struct {
	dir string
}

// Open returns the store in dir, an absolute path. It need not exist: the first build creates it.
func Open(dir string) *Store { return &Store{dir: dir} }

// Default returns this host's store, below hostdir.State.
func Default() (*Store, error) {
	state, err := hostdir.State()
	if err != nil {
		return nil, err
	}
	return Open(filepath.Join(state, "images")), nil
}

// Dir is the directory of the store.
func (s *Store) Dir() string { return s.dir }

// Entry describes an image of the store. It is what image.json holds, but for Names and Bytes.
type Entry struct {
	// Digest identifies the content: "sha256:" and the digest, in hexadecimal, of what Tar writes,
	// followed, if there is an environment, by its entries, a NUL byte after each.
	Digest string `json:"digest"`
	// Names that lead to the image, sorted.
	Names []string `json:"names"`
	// Source is what it was first built from, as it was given to Build.
	Source  string    `json:"source"`
	Created time.Time `json:"created"`
	// Bytes is the space that it takes on disk, with the forms derived from it.
	Bytes int64 `json:"bytes"`
	// Files is the number of files, directories and links in the tree.
	Files int `json:"files"`
	// Env is the image's own environment as KEY=value.
	Env []string `json:"env,omitempty"`
	// Notes say what of the source could not be kept.
	Notes []string `json:"notes,omitempty"`
}

// Resolve finds an image by its name, its digest, or "sha256:" and at least 8 leading digits.
func (s *Store) Resolve(nameOrDigest string) (sandbox.Image, error) {
	digest, err := s.find(nameOrDigest)
	if err != nil {
		return sandbox.Image{}, err
	}
	e, err := s.read(digest)
	if err != nil {
		return sandbox.Image{}, fail("find image", nameOrDigest, err)
	}
	return s.image(e), nil
}

func (s *Store) image(e Entry) sandbox.Image {
	dir := s.path(e.Digest)
	return sandbox.Image{
		Digest: e.Digest,
		Rootfs: filepath.Join(dir, privateName, rootfsName),
		Cache:  filepath.Join(dir, cacheName),
		Env:    e.Env,
	}
}

// List returns the images of the store, named ones first, in the order of their names.
func (s *Store) List() ([]Entry, error) {
	digests, err := s.digests()
	if err != nil {
		return nil, fail("list images", "", err)
	}
	names, err := s.names()
	if err != nil {
		return nil, fail("list images", "", err)
	}
	list := make([]Entry, 0, len(digests))
	for _, digest := range digests {
		e, err := s.describe(digest, names)
		if errors.Is(err, fs.ErrNotExist) { // removed in between
			continue
		}
		if err != nil {
			return nil, fail("list images", digest, err)
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b Entry) int {
		switch {
		case len(a.Names) > 0 && len(b.Names) > 0:
			return strings.Compare(a.Names[0], b.Names[0])
		case len(a.Names)+len(b.Names) > 0:
			return len(b.Names) - len(a.Names)
		}
		return strings.Compare(a.Digest, b.Digest)
	})
	return list, nil
}

// entry describes one image.
func (s *Store) entry(digest string) (Entry, error) {
	names, err := s.names()
	if err != nil {
		return Entry{}, err
	}
	return s.describe(digest, names)
}

func (s *Store) describe(digest string, names map[string][]string) (Entry, error) {
	e, err := s.read(digest)
	if err != nil {
		return e, err
	}
	e.Names = names[digest]
	derived, err := diskUsage(filepath.Join(s.path(digest), cacheName))
	e.Bytes += derived
	return e, err
}

// find returns the full digest of an image that exists.
func (s *Store) find(ref string) (string, error) {
	if strings.HasPrefix(ref, digestPrefix) {
		digests, err := s.digests()
		if err != nil {
			return "", fail("find image", ref, err)
		}
		var found []string
		for _, d := range digests {
			if strings.HasPrefix(d, ref) && len(ref) >= len(digestPrefix)+minDigits {
				found = append(found, d)
			}
		}
		switch len(found) {
		case 0:
			return "", s.notFound(ref)
		case 1:
			return found[0], nil
		}
		return "", &sandbox.Error{Op: "find image", Err: sandbox.ErrInvalid,
			Detail: fmt.Sprintf("%s fits %d images", ref, len(found)), Remedy: "give more digits"}
	}
	if err := checkName(ref); err != nil {
		return "", err
	}
	target, err := os.Readlink(s.namePath(ref))
	if errors.Is(err, fs.ErrNotExist) {
		return "", s.notFound(ref)
	}
	if err != nil {
		return "", fail("find image", ref, err)
	}
	digest, ok := dirDigest(filepath.Base(target))
	if !ok {
		return "", fail("find image", ref, fmt.Errorf("%s leads to %q, which is no image", s.namePath(ref), target))
	}
	if _, err := os.Lstat(s.path(digest)); errors.Is(err, fs.ErrNotExist) {
		return "", s.notFound(ref)
	}
	return digest, nil
}

func (s *Store) notFound(ref string) error {
	remedy := fmt.Sprintf("build it with `aether image build %s SOURCE`", ref)
	switch {
	case ref == DefaultName:
		remedy = "run `make image`, or `aether image build " + DefaultName + " SOURCE`"
	case strings.HasPrefix(ref, digestPrefix):
		remedy = "see `aether image ls`, or build it with `aether image build NAME SOURCE`"
	}
	detail := fmt.Sprintf("no image %q in %s", ref, s.dir)
	if names, err := s.names(); err == nil && len(names) > 0 {
		var all []string
		for _, n := range names {
			all = append(all, n...)
		}
		slices.Sort(all)
		detail += "; it has " + strings.Join(all, ", ")
	}
	return &sandbox.Error{Op: "find image", Err: fs.ErrNotExist, Detail: detail, Remedy: remedy}
}

func (s *Store) read(digest string) (Entry, error) {
	var e Entry
	b, err := os.ReadFile(filepath.Join(s.path(digest), metaName))
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, fmt.Errorf("%s of %s: %w", metaName, digest, err)
	}
	e.Digest, e.Names = digest, nil
	return e, nil
}

// digests lists what the store holds, sorted.
func (s *Store) digests() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var digests []string
	for _, e := range entries {
		if d, ok := dirDigest(e.Name()); ok && e.IsDir() {
			digests = append(digests, d)
		}
	}
	return digests, nil
}

// names lists the names of each digest, sorted.
func (s *Store) names() (map[string][]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, namesName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names := map[string][]string{}
	for _, e := range entries {
		target, err := os.Readlink(s.namePath(e.Name()))
		if err != nil {
			continue // removed in between, or not ours
		}
		if d, ok := dirDigest(filepath.Base(target)); ok && nameRE.MatchString(e.Name()) {
			names[d] = append(names[d], e.Name())
		}
	}
	return names, nil
}

func (s *Store) path(digest string) string {
	return filepath.Join(s.dir, dirPrefix+strings.TrimPrefix(digest, digestPrefix))
}

func (s *Store) namePath(name string) string { return filepath.Join(s.dir, namesName, name) }

// dirDigest is the digest of the image in a directory of the given base name.
func dirDigest(base string) (string, bool) {
	hex, ok := strings.CutPrefix(base, dirPrefix)
	d := digestPrefix + hex
	return d, ok && digestRE.MatchString(d)
}

func checkName(name string) error {
	if nameRE.MatchString(name) && !strings.HasPrefix(name, "sha256") {
		return nil
	}
	return &sandbox.Error{Op: "check image name", Err: sandbox.ErrInvalid, Detail: fmt.Sprintf("%q", name),
		Remedy: "use 1 to 128 letters, digits, dots, dashes and underscores, beginning with a letter or a digit"}
}

// diskUsage is the space that the files below dir take.
func diskUsage(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if info, err := d.Info(); err == nil {
			total += allocated(info)
		}
		return nil
	})
	return total, err
}
