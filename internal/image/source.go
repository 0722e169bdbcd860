package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

// A source is what an image is built from: archives to be unpacked one over the other.
type source struct {
	env    []string
	layers []layer
	// Whether the archives are layers of an OCI image: whiteouts count and contents are verified.
	oci bool
	// close frees what the source holds; it may be nil.
	close func() error
}

type layer struct {
	// open gives the archive, compressed or not.
	open func(ctx context.Context) (io.ReadCloser, error)
	// size is the number of bytes that open gives; 0 if unknown.
	size int64
	// diffID is the digest of the uncompressed archive, "sha256:...", to be verified; empty if none
	// was promised.
	diffID string
	// dropped tells, after the archive has been read, what it could not hold; it may be nil.
	dropped func() map[string]int
}

// Names of what makes a directory an OCI layout and an archive one of `docker save`.
const (
	ociMarker      = "oci-layout"
	ociIndex       = "index.json"
	dockerManifest = "manifest.json"
)

// openSource finds out what kind of source ref is. An archive of an image is unpacked in dir, a
// new directory, first.
func (b *build) openSource(ctx context.Context, ref, dir string) (*source, error) {
	info, err := os.Stat(ref)
	switch {
	case err == nil && info.IsDir():
		if _, err := os.Lstat(filepath.Join(ref, ociMarker)); err == nil {
			return openLayout(ref)
		}
		return b.openDirectory(ref)
	case err == nil:
		return b.openArchive(ctx, ref, info.Size(), dir)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, ".") || ref == "" {
		return nil, &sandbox.Error{Op: "read image source", Err: fs.ErrNotExist, Detail: fmt.Sprintf("%q", ref),
			Remedy: "give a directory, a tarball, an OCI layout or a registry reference such as debian:12-slim"}
	}
	return openRegistry(ctx, ref)
}

func (b *build) openDirectory(ref string) (*source, error) {
	real, err := filepath.EvalSymlinks(ref)
	if err != nil {
		return nil, err
	}
	if real, err = filepath.Abs(real); err != nil {
		return nil, err
	}
	if store, err := filepath.EvalSymlinks(b.store.dir); err == nil && within(store, real) {
		return nil, &sandbox.Error{Op: "read image source", Err: sandbox.ErrInvalid,
			Detail: fmt.Sprintf("%s holds the image store %s", ref, b.store.dir),
			Remedy: "set AETHER_STATE to a directory elsewhere"}
	}
	root, err := os.OpenRoot(real)
	if err != nil {
		return nil, err
	}
	a := &archiver{root: root}
	open := func(ctx context.Context) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(a.write(ctx, w)) }()
		return r, nil
	}
	// The pipe has been read to its end before dropped is called, which orders the two.
	return &source{close: root.Close, layers: []layer{{open: open, dropped: func() map[string]int { return a.dropped }}}}, nil
}

// within tells whether name is dir or lies in it.
func within(name, dir string) bool {
	rel, err := filepath.Rel(dir, name)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// openArchive opens a tarball: of a root file system, of an OCI layout or of `docker save`.
func (b *build) openArchive(ctx context.Context, ref string, size int64, dir string) (*source, error) {
	l := layer{size: size, open: func(context.Context) (io.ReadCloser, error) { return os.Open(ref) }}
	kind, err := sniff(ctx, l)
	if err != nil {
		return nil, err
	}
	if kind == "" {
		return &source{layers: []layer{l}}, nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	x := newExtractor(root, b.limits)
	x.own = false // the files are only read, by this process
	if err := b.unpack(ctx, x, l, false); err != nil {
		return nil, err
	}
	if kind == ociMarker {
		return openLayout(dir)
	}
	return openDockerArchive(dir)
}

// imageMember matches what is found in an archive of an image, whatever the tool that made it.
var imageMember = regexp.MustCompile(`^(blobs(/.*)?|oci-layout|index\.json|manifest\.json|repositories|` +
	`(sha256:)?[0-9a-f]{12,64}(/.*|\.json|\.tar(\.[a-z]+)?)?)$`)

// sniff reads an archive up to the first member that an archive of an image cannot have. It
// returns the marker of the kind of image, or "" for a root file system.
func sniff(ctx context.Context, l layer) (string, error) {
	raw, err := l.open(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = raw.Close() }()
	zr, err := decompress(raw, true)
	if err != nil {
		return "", err
	}
	defer func() { _ = zr.Close() }()
	seen := map[string]bool{}
	for tr := tar.NewReader(&contextReader{ctx: ctx, r: zr}); ; {
		hdr, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF):
			switch {
			case seen[ociMarker] && seen[ociIndex]:
				return ociMarker, nil
			case seen[dockerManifest]:
				return dockerManifest, nil
			}
			return "", nil
		case err != nil && !errors.Is(err, tar.ErrInsecurePath):
			return "", archiveError(err)
		}
		name := filepath.Clean(hdr.Name)
		if name != "." && !imageMember.MatchString(name) {
			return "", nil
		}
		if name == ociMarker || name == ociIndex || name == dockerManifest { // nothing else is remembered
			seen[name] = true
		}
	}
}

// unpack applies one layer and verifies it.
func (b *build) unpack(ctx context.Context, x *extractor, l layer, oci bool) (err error) {
	raw, err := l.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = raw.Close() }()
	zr, err := decompress(&contextReader{ctx: ctx, r: raw, count: b.progress.add}, !oci)
	if err != nil {
		return err
	}
	defer func() { _ = zr.Close() }()
	var sum hash.Hash
	var r io.Reader = &cappedReader{r: zr, left: b.limits.archive()}
	if l.diffID != "" {
		sum = sha256.New()
		r = io.TeeReader(r, sum)
	}
	if err := x.apply(ctx, r, oci); err != nil {
		return err
	}
	// What follows the end mark counts for checksums.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return archiveError(err)
	}
	if sum != nil {
		if got := digestPrefix + hex.EncodeToString(sum.Sum(nil)); got != l.diffID {
			return bad("a layer has digest %s instead of %s", got, l.diffID)
		}
	}
	if l.dropped != nil {
		for what, n := range l.dropped() {
			x.dropped[what] += n
		}
	}
	return nil
}

// contextReader stops reading when ctx ends, and counts.
type contextReader struct {
	ctx   context.Context
	r     io.Reader
	count func(n int)
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	if c.count != nil {
		c.count(n)
	}
	return n, err
}

// cappedReader refuses to give more than a number of bytes: a few kilobytes can decompress to
// terabytes of headers or padding.
type cappedReader struct {
	r    io.Reader
	left int64
}

func (c *cappedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.left -= int64(n); c.left < 0 {
		return 0, bad("it decompresses to more than can be an image")
	}
	return n, err
}
