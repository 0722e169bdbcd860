package host

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aethervm/aether/internal/mountinfo"
)

// Cgroup says how control groups are set up.
type Cgroup struct {
	// Version is "v1", "v2", "hybrid" (v1 controllers beside a v2 hierarchy) or "none".
	Version string `json:"version,omitempty"`
	// Controllers that can be used, sorted, of all hierarchies.
	Controllers []string `json:"controllers,omitempty"`
	// Hierarchies are the mount points: of each v1 controller by its name, of v2 by "".
	Hierarchies map[string]string `json:"hierarchies,omitempty"`
}

// Cgroups finds the cgroup hierarchies that this process sees.
func Cgroups() (Cgroup, error) { return readCgroup("/proc/self/mountinfo") }

func readCgroup(table string) (Cgroup, error) {
	f, err := os.Open(table)
	if err != nil {
		return Cgroup{}, err
	}
	defer func() { _ = f.Close() }()

	c := Cgroup{Hierarchies: map[string]string{}}
	v1, v2 := false, false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		m, ok := mountinfo.Parse(lines.Text())
		if !ok {
			continue
		}
		switch m.Type {
		case "cgroup":
			for _, option := range m.SuperOptions {
				if !isController(option) {
					continue
				}
				v1 = true
				c.Controllers = append(c.Controllers, option)
				if c.Hierarchies[option] == "" {
					c.Hierarchies[option] = m.Point
				}
			}
		case "cgroup2":
			v2 = true
			if c.Hierarchies[""] == "" {
				c.Hierarchies[""] = m.Point
			}
			if names, err := os.ReadFile(filepath.Join(m.Point, "cgroup.controllers")); err == nil {
				c.Controllers = append(c.Controllers, strings.Fields(string(names))...)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return Cgroup{}, fmt.Errorf("read %s: %w", table, err)
	}
	slices.Sort(c.Controllers)
	c.Controllers = slices.Compact(c.Controllers)
	switch {
	case v1 && v2:
		c.Version = "hybrid"
	case v1:
		c.Version = "v1"
	case v2:
		c.Version = "v2"
	default:
		c.Version = "none"
	}
	return c, nil
}

// isController tells a v1 controller from the other options of its mount.
func isController(option string) bool {
	switch option {
	case "rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods", "none", "all":
		return false
	}
	return option != "" && !strings.Contains(option, "=")
}
