package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/sandbox"
)

// labState is hostdir.State in the lab.
const labState = "/var/lib/aether"

// peer is something of this host that the lab gets.
type peer struct {
	source string // a path on this host
	target string // in the lab
	link   string // or: the target is a symbolic link to this
}

// findPeers lists what this host has: the default guest image with the forms that were derived from
// it, the guest kernels, and runsc. What is missing is left out. The key is the digest of it all.
// The image cannot be removed until hold is closed.
func findPeers(state string) (peers []peer, key string, hold io.Closer, err error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "1\x00")
	hold = io.NopCloser(nil)
	store := image.Open(filepath.Join(state, "images"))
	switch img, err := store.Resolve(image.DefaultName); {
	case err == nil:
		if hold, err = image.Hold(img); err != nil {
			return nil, "", nil, err
		}
		dir := filepath.Dir(img.Cache)
		peers = append(peers,
			peer{source: dir, target: filepath.Join(labState, "images", filepath.Base(dir))},
			peer{link: filepath.Join("..", filepath.Base(dir)), target: filepath.Join(labState, "images/names", image.DefaultName)})
		fmt.Fprintf(sum, "image %s\x00", img.Digest)
		if err := addNames(sum, img.Cache); err != nil {
			return nil, "", nil, errors.Join(err, hold.Close())
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, "", nil, err
	}
	more, err := findFiles(sum, state)
	if err != nil {
		return nil, "", nil, errors.Join(err, hold.Close())
	}
	return append(peers, more...), hex.EncodeToString(sum.Sum(nil)[:8]), hold, nil
}

func findFiles(sum io.Writer, state string) ([]peer, error) {
	var peers []peer
	kernels := filepath.Join(state, "kernels")
	if _, err := os.Stat(kernels); err == nil {
		peers = append(peers, peer{source: kernels, target: filepath.Join(labState, "kernels")})
		if err := addNames(sum, kernels); err != nil {
			return nil, err
		}
	}
	runsc := filepath.Join(state, "bin/runsc")
	f, err := os.Open(runsc)
	if errors.Is(err, fs.ErrNotExist) {
		return peers, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := io.Copy(sum, f); err != nil {
		return nil, err
	}
	return append(peers, peer{source: runsc, target: filepath.Join(labState, "bin/runsc")}), nil
}

// addNames adds the entries of a directory whose content is known by its name.
func addNames(sum io.Writer, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") { // in the making, and locks
			fmt.Fprintf(sum, "%s\x00", e.Name())
		}
	}
	return nil
}

// makePeers makes a peers directory in dir.
func makePeers(ctx context.Context, dir, work string, peers []peer, phase func(string)) error {
	phase("collect guest images, kernels and runsc")
	root := filepath.Join(work, "peers")
	if err := os.MkdirAll(filepath.Join(root, labState), 0o755); err != nil {
		return err
	}
	for _, p := range peers {
		target := filepath.Join(root, p.target)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		var err error
		if p.link != "" {
			err = os.Symlink(p.link, target)
		} else {
			err = copyTree(ctx, p.source, target)
		}
		if err != nil {
			return &sandbox.Error{Op: "lab build", Err: err, Detail: fmt.Sprintf("copy %s: %v", p.source, err),
				Remedy: "build again; something was removing it"}
		}
	}
	phase("write the disk image of peers")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return makeDisk(ctx, filepath.Join(dir, diskName), root)
}

// copyTree copies a file or a tree with all its attributes. Where it can, it makes hard links: the
// copy is read once and removed.
func copyTree(ctx context.Context, source, target string) error {
	_, err := run(ctx, "cp", "-a", "--link", "--no-target-directory", source, target)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// Another file system, or files of somebody else.
	if err := os.RemoveAll(target); err != nil {
		return err
	}
	_, err = run(ctx, "cp", "-a", "--reflink=auto", "--no-target-directory", source, target)
	return err
}

// copyFile copies a regular file to a name that must not exist yet.
func copyFile(target, source string) (err error) {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
