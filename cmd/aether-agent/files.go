package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/aethervm/aether/internal/guest/files"
)

// runFiles does one file operation. Content and results go to stdout; a failure goes to stderr as
// one line of JSON (files.Failure) with exit code 1.
func runFiles(args []string) int {
	if len(args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		return exitUsage
	}
	if err := fileOperation(args[0], args[1], args[2:]); err != nil {
		if json.NewEncoder(os.Stderr).Encode(files.AsFailure(err)) != nil {
			return exitUsage
		}
		return exitFailure
	}
	return exitOK
}

func fileOperation(op, name string, rest []string) error {
	switch op {
	case "read":
		return readFile(name, rest)
	case "write":
		perm, err := strconv.ParseUint(append(rest, "644")[0], 8, 12)
		if err != nil {
			return err
		}
		return files.Write(name, files.Unchunk(os.Stdin), fs.FileMode(perm))
	case "list":
		list, err := files.List(name)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(list)
	case "stat":
		info, err := files.Stat(name)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(info)
	case "remove":
		return files.Remove(name)
	case "pack":
		return pack(name)
	case "unpack":
		return unpack(name)
	}
	return fmt.Errorf("unknown file operation %q", op)
}

// readFile reads a file, or of one the range that rest says: its offset and size in bytes.
func readFile(name string, rest []string) error {
	var part [2]int64
	for i := range min(len(rest), len(part)) {
		n, err := strconv.ParseUint(rest[i], 10, 63)
		if err != nil {
			return err
		}
		part[i] = int64(n)
	}
	return files.Read(name, part[0], part[1], os.Stdout)
}
