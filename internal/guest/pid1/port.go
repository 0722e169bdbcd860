package pid1

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// portName is what the host calls the virtio-serial port.
const portName = "aether.agent"

// findPort returns the device of the virtio-serial port of that name.
func findPort(name string) (string, error) {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return "", err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err == nil && strings.TrimSpace(string(text)) == name {
				device := filepath.Join("/dev", filepath.Base(filepath.Dir(file)))
				return device, waitFor(device)
			}
		}
		if time.Since(start) > deviceWait {
			return "", fmt.Errorf("no virtio-serial port is called %s", name)
		}
	}
}
