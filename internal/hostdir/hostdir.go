// Package hostdir says where aether keeps its files on the host.
package hostdir

import (
	"fmt"
	"os"
	"path/filepath"
)

// State is where what lasts is kept (images, kernels, the guest agent): $AETHER_STATE if set, else
// /var/lib/aether for root and the user's cache directory for others. It need not exist yet.
func State() (string, error) {
	if dir := os.Getenv("AETHER_STATE"); dir != "" {
		return absolute("AETHER_STATE", dir)
	}
	if os.Geteuid() == 0 {
		return "/var/lib/aether", nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a directory for images: %w (set AETHER_STATE)", err)
	}
	return filepath.Join(cache, "aether"), nil
}

// Run is where what lives no longer than its process is kept (sockets, bundles, locks):
// $AETHER_RUN if set, else /run/aether for root, else a directory of the user's own. Its path is
// short enough for the names of Unix sockets, which end at 107 bytes.
func Run() (string, error) {
	if dir := os.Getenv("AETHER_RUN"); dir != "" {
		return absolute("AETHER_RUN", dir)
	}
	if os.Geteuid() == 0 {
		return "/run/aether", nil
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "aether"), nil
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("aether-%d", os.Getuid())), nil
}

// RunOf is the directory below Run for one system, or another part of aether that holds leases.
func RunOf(system string) (string, error) {
	run, err := Run()
	if err != nil {
		return "", err
	}
	return filepath.Join(run, system), nil
}

func absolute(name, dir string) (string, error) {
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("%s=%s: it must be an absolute path", name, dir)
	}
	return filepath.Clean(dir), nil
}
