package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"

	"github.com/aethervm/aether/internal/archive"
	"github.com/aethervm/aether/sandbox"
)

// pack writes a directory to stdout, as a tar stream, and a report to stderr.
func pack(name string) error {
	if err := sandbox.CheckPath(name); err != nil {
		return err
	}
	report, err := archive.Pack(os.Stdout, name)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stderr).Encode(report)
}

// unpack reads a tar stream from stdin into a directory, which it makes if there is none, and writes a report to stdout.
func unpack(name string) error {
	if err := sandbox.CheckPath(name); err != nil {
		return err
	}
	var options archive.Options
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		options.Fresh = true
		if err := os.MkdirAll(name, 0o755); err != nil {
			return err
		}
	}
	report, err := archive.Unpack(os.Stdin, name, options)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}
