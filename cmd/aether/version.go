package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version string

type versionInfo struct {
	Version string `json:"version"`
	// Commit is the revision that the binary was built from; Modified, that it was not a clean one.
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
}

func newVersion(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version [--json]",
		Short: "Print the version",
		Long: `Print the version of aether, the commit and the Go version that it was built with.

  aether version --json`,
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				return a.printJSON(currentVersion())
			}
			return a.printf("%s\n", versionLine())
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// versionLine is what `aether version` and `aether --version` print.
func versionLine() string {
	v := currentVersion()
	return "aether " + v.String() + " " + v.Go + " " + v.OS + "/" + v.Arch
}

func currentVersion() versionInfo {
	v := versionInfo{Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	build, ok := debug.ReadBuildInfo()
	if v.Version == "" {
		v.Version = "devel"
		if ok && build.Main.Version != "" && build.Main.Version != "(devel)" {
			v.Version = build.Main.Version
		}
	}
	if ok {
		for _, s := range build.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value[:min(12, len(s.Value))]
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	return v
}

// String is the version as it is recorded with results: "devel (0123456789ab, modified)".
func (v versionInfo) String() string {
	s := v.Version
	switch {
	case v.Commit != "" && v.Modified:
		s += " (" + v.Commit + ", modified)"
	case v.Commit != "":
		s += " (" + v.Commit + ")"
	}
	return s
}
