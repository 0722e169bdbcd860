package runtimetest

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/aethervm/aether/internal/archive"
	"github.com/aethervm/aether/internal/guest/files"
	"github.com/aethervm/aether/sandbox"
)

// agent stands for the guest agent, as far as it copies directories.
func (b *box) agent(cmd sandbox.Cmd) (sandbox.Exit, error) {
	dir := path.Clean(cmd.Args[3])
	var report archive.Report
	var err error
	out := cmd.Stdout
	switch strings.Join(cmd.Args[1:3], " ") {
	case "fs pack":
		out = cmd.Stderr
		err = b.pack(dir, cmd.Stdout, &report)
	case "fs unpack":
		err = b.unpack(dir, cmd.Stdin, &report)
	default:
		err = fmt.Errorf("%q", cmd.Args)
	}
	exit := sandbox.Exit{}
	var say any = report
	if err != nil {
		out, say, exit.Code = cmd.Stderr, files.AsFailure(err), 1
	}
	return exit, json.NewEncoder(out).Encode(say)
}

func (b *box) pack(dir string, w io.Writer, report *archive.Report) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	to := tar.NewWriter(w)
	for name, f := range b.state.files {
		inside, ok := strings.CutPrefix(name, strings.TrimSuffix(dir, "/")+"/")
		if !ok || f.mode.IsDir() {
			continue
		}
		if err := to.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: inside, Size: int64(len(f.data)), Mode: int64(f.mode.Perm()), ModTime: f.time}); err != nil {
			return err
		}
		if _, err := io.WriteString(to, f.data); err != nil {
			return err
		}
		report.Files++
		report.Bytes += int64(len(f.data))
	}
	report.Entries = report.Files
	return to.Close()
}

func (b *box) unpack(dir string, r io.Reader, report *archive.Report) error {
	from := tar.NewReader(r)
	for {
		h, err := from.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(h.Name) {
			return archive.ErrHostile
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(from)
		if err != nil {
			return err
		}
		b.mu.Lock()
		b.state.files[path.Join(dir, h.Name)] = file{data: string(data), mode: fs.FileMode(h.Mode) & fs.ModePerm, time: h.ModTime}
		b.mu.Unlock()
		report.Files++
		report.Entries++
		report.Bytes += int64(len(data))
	}
}
