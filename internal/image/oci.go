package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/aethervm/aether/sandbox"
)

const (
	guestOS   = "linux"
	guestArch = "amd64"
	// No manifest or configuration in use comes near; registries refuse them from 4 MiB on.
	maxDocument = 8 << 20
	// How deep indexes may hold indexes.
	maxIndexDepth = 4
)

// openRegistry fetches manifest and configuration of an image; layers are fetched as they are
// unpacked. The client verifies what it gets against the digests.
func openRegistry(ctx context.Context, ref string) (*source, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, &sandbox.Error{Op: "read image source", Err: sandbox.ErrInvalid, Detail: fmt.Sprintf("%q is neither a file nor a registry reference: %v", ref, err),
			Remedy: "give a directory, a tarball, an OCI layout or a registry reference such as debian:12-slim"}
	}
	img, err := remote.Image(r, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithPlatform(v1.Platform{OS: guestOS, Architecture: guestArch}))
	if err != nil {
		return nil, registryError(ref, err)
	}
	manifest, err := img.Manifest()
	if err != nil {
		return nil, registryError(ref, err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, registryError(ref, err)
	}
	return newOCISource(manifest, config, func(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
		l, err := img.LayerByDigest(d.Digest)
		if err != nil {
			return nil, registryError(ref, err)
		}
		rc, err := l.Compressed()
		if err != nil {
			return nil, registryError(ref, err)
		}
		return rc, nil
	})
}

func registryError(ref string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &sandbox.Error{Op: "read image source", Err: err, Detail: fmt.Sprintf("registry reference %q, since there is no such file", ref),
		Remedy: "check the name and the network, or build from a tarball instead"}
}

// openLayout opens an OCI image layout: a directory with index.json and blobs.
func openLayout(dir string) (*source, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	src, err := layoutSource(root)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	src.close = root.Close
	return src, nil
}

func layoutSource(root *os.Root) (*source, error) {
	raw, err := readDocument(root, ociIndex)
	if err != nil {
		return nil, err
	}
	found, err := pickManifests(root, raw, 0)
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, &sandbox.Error{Op: "read image source", Err: sandbox.ErrUnsupported,
			Detail: fmt.Sprintf("the layout holds %d images for %s/%s", len(found), guestOS, guestArch),
			Remedy: "make a layout with one"}
	}
	raw, err = readBlob(root, found[0])
	if err != nil {
		return nil, err
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, bad("manifest %s: %v", found[0].Digest, err)
	}
	if raw, err = readBlob(root, manifest.Config); err != nil {
		return nil, err
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, bad("configuration %s: %v", manifest.Config.Digest, err)
	}
	return newOCISource(manifest, config, func(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
		return openRegular(root, blobName(d))
	})
}

// pickManifests collects the images of an index that a guest here can run.
func pickManifests(root *os.Root, raw []byte, depth int) ([]v1.Descriptor, error) {
	if depth > maxIndexDepth {
		return nil, bad("indexes within indexes")
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, bad("index: %v", err)
	}
	var found []v1.Descriptor
	seen := map[v1.Hash]bool{} // an image may be listed once for each of its tags
	for _, d := range index.Manifests {
		switch {
		case seen[d.Digest]:
		case d.MediaType.IsIndex():
			raw, err := readBlob(root, d)
			if err != nil {
				return nil, err
			}
			below, err := pickManifests(root, raw, depth+1)
			if err != nil {
				return nil, err
			}
			found = append(found, below...)
		case d.MediaType.IsImage() && (d.Platform == nil || d.Platform.OS == guestOS && d.Platform.Architecture == guestArch):
			found = append(found, d)
		}
		seen[d.Digest] = true
	}
	return found, nil
}

// newOCISource combines manifest and configuration of an image.
func newOCISource(manifest *v1.Manifest, config *v1.ConfigFile, open func(context.Context, v1.Descriptor) (io.ReadCloser, error)) (*source, error) {
	if err := checkPlatform(config); err != nil {
		return nil, err
	}
	if len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		return nil, bad("%d layers, but digests of %d", len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	src := &source{oci: true, env: config.Config.Env}
	for i, d := range manifest.Layers {
		src.layers = append(src.layers, layer{size: max(d.Size, 0), diffID: config.RootFS.DiffIDs[i].String(),
			open: func(ctx context.Context) (io.ReadCloser, error) { return open(ctx, d) }})
	}
	return src, nil
}

func checkPlatform(config *v1.ConfigFile) error {
	if config.OS != "" && config.OS != guestOS || config.Architecture != "" && config.Architecture != guestArch {
		return &sandbox.Error{Op: "read image source", Err: sandbox.ErrUnsupported,
			Detail: fmt.Sprintf("the image is for %s/%s", config.OS, config.Architecture),
			Remedy: fmt.Sprintf("get the one for %s/%s", guestOS, guestArch)}
	}
	return nil
}

// openDockerArchive opens what `docker save` wrote, unpacked in dir.
func openDockerArchive(dir string) (*source, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	src, err := dockerSource(root)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	src.close = root.Close
	return src, nil
}

func dockerSource(root *os.Root) (*source, error) {
	raw, err := readDocument(root, dockerManifest)
	if err != nil {
		return nil, err
	}
	var images []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(raw, &images); err != nil {
		return nil, bad("%s: %v", dockerManifest, err)
	}
	if len(images) != 1 {
		return nil, &sandbox.Error{Op: "read image source", Err: sandbox.ErrUnsupported,
			Detail: fmt.Sprintf("the archive holds %d images", len(images)), Remedy: "save one image only"}
	}
	if raw, err = readDocument(root, images[0].Config); err != nil {
		return nil, err
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, bad("configuration: %v", err)
	}
	if err := checkPlatform(config); err != nil {
		return nil, err
	}
	if len(images[0].Layers) != len(config.RootFS.DiffIDs) {
		return nil, bad("%d layers, but digests of %d", len(images[0].Layers), len(config.RootFS.DiffIDs))
	}
	src := &source{oci: true, env: config.Config.Env}
	for i, file := range images[0].Layers {
		l := layer{diffID: config.RootFS.DiffIDs[i].String(),
			open: func(context.Context) (io.ReadCloser, error) { return openRegular(root, file) }}
		if info, err := root.Stat(file); err == nil {
			l.size = info.Size()
		}
		src.layers = append(src.layers, l)
	}
	return src, nil
}

func blobName(d v1.Descriptor) string { return path.Join("blobs", d.Digest.Algorithm, d.Digest.Hex) }

// readBlob reads a document of a layout and verifies it.
func readBlob(root *os.Root, d v1.Descriptor) ([]byte, error) {
	raw, err := readDocument(root, blobName(d))
	if err != nil {
		return nil, err
	}
	got, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	if got != d.Digest {
		return nil, bad("%s has digest %s", blobName(d), got)
	}
	return raw, nil
}

func readDocument(root *os.Root, file string) ([]byte, error) {
	f, err := openRegular(root, file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err == nil && len(raw) > maxDocument {
		err = bad("%s is larger than %d bytes", file, maxDocument)
	}
	return raw, err
}

// openRegular opens a file named by a stranger.
func openRegular(root *os.Root, file string) (*os.File, error) {
	info, err := root.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, bad("%s is missing", file)
	case err != nil:
		return nil, bad("%s: %v", file, err) // such as a link that leads out
	case !info.Mode().IsRegular():
		return nil, bad("%s is not a regular file", file)
	}
	return root.Open(file)
}

// cleanEnv drops what cannot be passed on as environment and returns how many entries that were.
func cleanEnv(env []string) (kept []string, dropped int) {
	for _, kv := range env {
		if key, _, ok := strings.Cut(kv, "="); ok && key != "" && !strings.ContainsRune(kv, 0) {
			kept = append(kept, kv)
		}
	}
	return kept, len(env) - len(kept)
}
