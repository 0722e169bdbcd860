// Package guestagent gives the host the guest agent: the static binary (cmd/aether-agent) that runs
// inside every sandbox.
package guestagent

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/aethervm/aether/internal/hostdir"
)

// Mount is where the agent is found inside every sandbox.
const Mount = "/.aether/agent"

// `make agent` puts the binary into bin/ before the host's binary is built. The directory is
// embedded with its .gitkeep so that the package compiles without it too.
//
//go:embed all:bin
var bin embed.FS

// Path returns the absolute path of the agent on this host. The embedded binary is written once to
// a directory named by its hash, so that several versions of aether can be in use at once.
// $AETHER_AGENT names another binary. Safe for concurrent use, also by several processes.
func Path() (string, error) {
	if name := os.Getenv("AETHER_AGENT"); name != "" {
		if _, err := os.Stat(name); err != nil {
			return "", fmt.Errorf("guest agent from AETHER_AGENT: %w", err)
		}
		return filepath.Abs(name)
	}
	content, err := bin.ReadFile("bin/aether-agent")
	if errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("this binary was built without the guest agent (build it with `make build`, or set AETHER_AGENT)")
	}
	if err != nil {
		return "", err
	}
	state, err := hostdir.State()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	dir := filepath.Join(state, "agents", hex.EncodeToString(sum[:8]))
	name := filepath.Join(dir, "aether-agent")
	if info, err := os.Stat(name); err == nil && info.Size() == int64(len(content)) {
		return name, nil
	}
	return name, install(dir, name, content)
}

func install(dir, name string, content []byte) error {
	// 0755 all the way: a VMM that has dropped its privileges reads it too.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("install guest agent: %w", err)
	}
	tmp, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return fmt.Errorf("install guest agent: %w", err)
	}
	defer os.Remove(tmp.Name()) // fails once renamed
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(0o755), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("install guest agent: %w", err)
	}
	return nil
}
