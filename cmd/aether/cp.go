package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/runtime"
)

func newCopy(a *app) *cobra.Command {
	var o clientOptions
	var recursive bool
	cmd := &cobra.Command{
		Use:   "cp [-r] SOURCE... DESTINATION [flags]",
		Short: "Copy files into a sandbox, out of it, or between two",
		Long: `Copy files. Those of a sandbox are written SANDBOX:/PATH, and "-" is standard input or
output. A destination that is a directory, or ends in a slash, gets the file's name beneath
it. A file comes whole or not at all, and keeps its permissions.

  aether cp a.csv b.csv SANDBOX:/data/
  aether cp SANDBOX:/etc/os-release .
  aether cp SANDBOX:/tmp/log - | less

With -r a source may be a directory. It is copied beneath a destination that is a directory, and
as a destination that is not there; DIRECTORY/. is what is in it. "-" is then a tar stream, with
names that begin in the directory. Permissions, links and times are kept, owners are not.
Devices, pipes and what cannot be read are left out, which is said and is an error in the end.
Whatever names and links a sandbox sends, nothing is written outside the destination, and no more
than 64 GiB and a million entries.

  aether cp -r project SANDBOX:/work
  aether cp -r SANDBOX:/work/results .
  aether cp -r SANDBOX:/work - | tar -tf -` + needsServer,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usageError("`"+cmd.UseLine()+"`", "%s: an argument is missing", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.asking(func(c *client.Client) error {
				return a.copyAll(cmd.Context(), c, args[:len(args)-1], args[len(args)-1], recursive)
			})
		},
	}
	o.register(cmd)
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "copy directories with all that they hold")
	return cmd
}

// place is a file here or in a sandbox.
type place struct {
	sandbox string // empty is here
	path    string
}

func (p place) String() string {
	if p.sandbox == "" {
		return p.path
	}
	return p.sandbox + ":" + p.path
}

// placeOf takes SANDBOX:/PATH for a file of a sandbox, and all else for one of this host.
func placeOf(arg string) place {
	if id, name, ok := strings.Cut(arg, ":"); ok && strings.HasPrefix(name, "/") && !strings.Contains(id, "/") && id != "" {
		return place{id, name}
	}
	return place{path: arg}
}

func (a *app) copyAll(ctx context.Context, c *client.Client, sources []string, destination string, recursive bool) error {
	to := placeOf(destination)
	if to.sandbox == "" && to.path == "-" && len(sources) > 1 {
		return usageError("copy one, or to a directory", "standard output takes one source")
	}
	into := strings.HasSuffix(to.path, "/") || len(sources) > 1
	if !into && to.path != "-" {
		dir, err := isDir(ctx, c, to)
		if err != nil {
			return err
		}
		into = dir
	}
	for _, source := range sources {
		from, at := placeOf(source), to
		if from.sandbox == "" && to.sandbox == "" {
			return usageError("write SANDBOX:/PATH for a file of a sandbox", "neither %s nor %s is in a sandbox", source, destination)
		}
		if recursive {
			tree, err := isTree(ctx, c, from, to)
			if err != nil {
				return err
			}
			if tree {
				if err := a.copyTree(ctx, c, from, to, into); err != nil {
					return err
				}
				continue
			}
		}
		if into {
			if from.path == "-" {
				return usageError("name the file", "standard input has no name to be copied to beneath %s", destination)
			}
			at.path = path.Join(to.path, path.Base(from.path))
		}
		if err := a.copyFile(ctx, c, from, at, !into); err != nil {
			return err
		}
	}
	return nil
}

func isDir(ctx context.Context, c *client.Client, p place) (bool, error) {
	if p.sandbox == "" {
		info, err := os.Stat(p.path)
		return err == nil && info.IsDir(), nil
	}
	// A directory lists what it holds, and has itself no entry; its name with "/." behind it is none of a file.
	_, err := c.Entries(ctx, p.sandbox, strings.TrimSuffix(p.path, "/")+"/.")
	if runtime.CodeOf(err) == runtime.CodeGone || client.Unreachable(err) {
		return false, err
	}
	return err == nil, nil
}

// copyFile copies a file. typed tells that the user has typed all of the destination.
func (a *app) copyFile(ctx context.Context, c *client.Client, from, to place, typed bool) error {
	in, mode, err := a.source(ctx, c, from)
	if err != nil {
		return err
	}
	defer in.Close()
	if to.sandbox != "" {
		_, err := c.Upload(ctx, to.sandbox, to.path, mode, in)
		return err
	}
	if to.path == "-" {
		_, err := io.Copy(a.out, in)
		return err
	}
	return saveWhole(to.path, mode, in, typed)
}

// source opens a file and tells its permissions; 0 is unknown.
func (a *app) source(ctx context.Context, c *client.Client, p place) (io.ReadCloser, uint32, error) {
	if p.sandbox == "" {
		if p.path == "-" {
			return io.NopCloser(a.in), 0, nil
		}
		f, err := os.Open(p.path)
		if err != nil {
			return nil, 0, err
		}
		info, err := f.Stat()
		if err == nil && info.IsDir() {
			err = usageError("copy it with -r", "%s is a directory", p)
		}
		if err != nil {
			_ = f.Close()
			return nil, 0, err
		}
		return f, uint32(info.Mode().Perm()), nil
	}
	entries, err := c.Entries(ctx, p.sandbox, p.path)
	if err != nil {
		return nil, 0, err
	}
	if len(entries) != 1 || entries[0].Type != "file" || entries[0].Name != path.Base(p.path) {
		entries = nil // a directory, or a link: the server says what can be read
	}
	var mode uint32
	for _, e := range entries {
		mode = permissions(e.Mode)
	}
	from, to := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		_ = to.CloseWithError(c.Download(ctx, p.sandbox, p.path, to))
	}()
	return pipe{from, cancel}, mode, nil
}

// pipe is the end of one whose other end is given up with it.
type pipe struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (p pipe) Close() error {
	p.cancel()
	return p.PipeReader.Close()
}

// permissions are those of a mode as ls shows it, such as "-rwxr-xr-x"; 0 if it is none.
func permissions(mode string) (perm uint32) {
	if len(mode) < 9 {
		return 0
	}
	for _, c := range mode[len(mode)-9:] {
		perm <<= 1
		if c != '-' {
			perm |= 1
		}
	}
	return perm
}

// saveWhole writes a file of this host, whole or not at all. A device or a pipe is written to, by a link too, if the user
// has typed its name. Else the name may be that of a link which a sandbox has sent before: it is replaced.
func saveWhole(name string, mode uint32, r io.Reader, typed bool) error {
	if info, err := os.Stat(name); typed && err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	if mode == 0 {
		mode = 0o644
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Chmod(fs.FileMode(mode) & 0o777)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
