package docker

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/aethervm/aether/internal/filelock"
	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/sandbox"
)

// labelImage carries the full digest of the sandbox.Image that an image was imported from.
const labelImage = "aether.image"

// importImage makes sure that the engine has img and returns the ID of its copy. The copy is shared
// by all processes and stays.
func (e *engine) importImage(ctx context.Context, img sandbox.Image) (string, error) {
	tag, err := imageTag(img.Digest)
	if err != nil {
		return "", err
	}
	e.mu.Lock()
	id := e.images[img.Digest]
	e.mu.Unlock()
	if id != "" {
		return id, nil
	}
	if id, err = e.lookUp(ctx, tag, img.Digest); id == "" && err == nil {
		id, err = e.importLocked(ctx, img, tag)
	}
	if err != nil {
		return "", err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.images[img.Digest] = id
	return id, nil
}

// forgetImage makes the next importImage look again.
func (e *engine) forgetImage(digest string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.images, digest)
}

// imageTag is the name of an image in the engine.
func imageTag(digest string) (string, error) {
	sum, ok := strings.CutPrefix(digest, "sha256:")
	if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != 32 {
		return "", &sandbox.Error{Op: "create", System: system, Err: sandbox.ErrInvalid,
			Detail: fmt.Sprintf("image.digest is %q", digest), Remedy: "it must be sha256: and 64 hexadecimal digits"}
	}
	return "aether/image:" + strings.ToLower(sum[:16]), nil
}

// lookUp returns the ID of the image with the given tag, or "" if there is none that was imported
// from digest.
func (e *engine) lookUp(ctx context.Context, tag, digest string) (string, error) {
	found, err := e.cli.ImageInspect(ctx, tag)
	switch {
	case errdefs.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", err
	case found.Config == nil || found.Config.Labels[labelImage] != digest:
		return "", nil
	}
	return found.ID, nil
}

// importLocked imports img unless somebody else does so meanwhile. Each import makes a new image, and
// an older one would lose its tag and lie about as garbage, so processes take turns.
func (e *engine) importLocked(ctx context.Context, img sandbox.Image, tag string) (string, error) {
	state, err := hostdir.State()
	if err != nil {
		return "", err
	}
	lock, err := lockFile(ctx, filepath.Join(state, system, "import.lock"))
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()
	if id, err := e.lookUp(ctx, tag, img.Digest); id != "" || err != nil {
		return id, err
	}
	// If the tree cannot be read, the request's body fails with the reason, and the engine sees a
	// body that breaks off and keeps nothing.
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		buffered := bufio.NewWriterSize(w, 1<<20)
		err := image.Tar(ctx, img, buffered)
		if err == nil {
			err = buffered.Flush()
		}
		_ = w.CloseWithError(err)
		done <- err
	}()
	reply, err := e.cli.ImageImport(ctx, client.ImageImportSource{Source: r, SourceName: "-"}, tag,
		client.ImageImportOptions{Message: "imported by aether", Changes: []string{"LABEL " + labelImage + "=" + img.Digest}})
	if err == nil {
		err = importResult(reply)
		_ = reply.Close()
	}
	_ = r.Close() // ends image.Tar where the engine has refused
	if tarErr := <-done; tarErr != nil && !errors.Is(tarErr, io.ErrClosedPipe) {
		return "", tarErr
	}
	if err != nil {
		return "", err
	}
	id, err := e.lookUp(ctx, tag, img.Digest)
	if id == "" && err == nil {
		err = fmt.Errorf("the engine has imported %s but does not find it", tag)
	}
	return id, err
}

// importResult reads the engine's report of an import: JSON objects, of which one may be an error.
func importResult(r io.Reader) error {
	for dec := json.NewDecoder(r); ; {
		var line struct {
			Error string `json:"error"`
		}
		err := dec.Decode(&line)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the report of the import: %w", err)
		case line.Error != "":
			return errors.New(line.Error)
		}
	}
}

// lockFile takes a file's lock, or gives up when ctx ends.
func lockFile(ctx context.Context, name string) (io.Closer, error) {
	err := os.MkdirAll(filepath.Dir(name), 0o700)
	var f *os.File
	if err == nil {
		f, err = filelock.Wait(ctx, name, filelock.Exclusive, 0o600, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("take turns at importing: %w", err)
	}
	return f, nil
}
