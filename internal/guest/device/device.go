// Package device waits for devices: a driver that was just loaded has not found its devices yet.
package device

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// patience is how long a device may take to appear.
const patience = 20 * time.Second

// Wait waits until the file of a device exists, for 20 seconds.
func Wait(path string) error {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		_, err := os.Stat(path)
		if err == nil {
			return nil
		}
		if time.Since(start) > patience {
			return fmt.Errorf("wait for a device: %w", err)
		}
	}
}

// Port returns the device of the virtio-serial port that the host has given this name, for which it waits as Wait does.
func Port(name string) (string, error) {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return "", err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err == nil && strings.TrimSpace(string(text)) == name {
				path := filepath.Join("/dev", filepath.Base(filepath.Dir(file)))
				return path, Wait(path)
			}
		}
		if time.Since(start) > patience {
			return "", fmt.Errorf("no virtio-serial port is called %s", name)
		}
	}
}
