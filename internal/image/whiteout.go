package image

import (
	"io/fs"
	"path"
	"strings"
)

// Names in layers of images that hide what the layers below have, as the image specification of
// OCI defines them: https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
const (
	whiteoutPrefix = ".wh."         // .wh.NAME hides NAME
	whiteoutOpaque = ".wh..wh..opq" // hides everything in its directory
	whiteoutMeta   = ".wh..wh."     // bookkeeping of a union file system
)

// mark notes that the present layer has written at.
func (x *extractor) mark(at string) {
	if x.written == nil {
		return
	}
	for ; at != "." && !x.written[at]; at = path.Dir(at) {
		x.written[at] = true
	}
}

func (x *extractor) whiteout(dir, base string) error {
	switch {
	case base == whiteoutOpaque:
		return x.hideAll(dir)
	case strings.HasPrefix(base, whiteoutMeta):
		return nil
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return bad("whiteout %q", path.Join(dir, base))
	}
	return x.hide(path.Join(dir, name))
}

// hide removes what the layers below have at a path, but nothing of the present one.
func (x *extractor) hide(at string) error {
	if !x.written[at] {
		return x.remove(at)
	}
	if info, err := x.root.Lstat(at); err != nil || !info.IsDir() {
		return err
	}
	return x.hideAll(at)
}

func (x *extractor) hideAll(dir string) error {
	entries, err := fs.ReadDir(x.root.FS(), dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := x.hide(path.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
