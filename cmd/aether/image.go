package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/sandbox"
)

func newImage(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Build, list and remove guest images",
		Long: `Guest images are root file systems. One image serves every system; each derives the
form that it needs (a disk image, an image of the Docker engine) and keeps it with it.

  aether image build debian-python ./rootfs.tar
  aether image ls
  aether image rm debian-python

They are kept in /var/lib/aether/images for root, else in the user's cache directory;
AETHER_STATE=DIR puts them elsewhere.`,
		Args: commandArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, sub := range []*cobra.Command{newImageBuild(a), newImageList(a), newImageRemove(a)} {
		sub.DisableFlagsInUseLine = true
		cmd.AddCommand(sub)
	}
	return cmd
}

func newImageBuild(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "build NAME SOURCE [--json]",
		Short: "Build an image from a directory, a tarball, or an OCI layout or reference",
		Long: `Build an image and give it a name. SOURCE is a directory, a tarball (plain, gzip, zstd
or xz) of a root file system, an OCI layout or a tarball of one, a tarball by docker save,
or a reference to a registry. On failure the store is as it was.

  aether image build debian-python ./rootfs.tar.zst
  aether image build alpine docker.io/library/alpine:3.22

It prints the digest of the image's content: the same content always has the same digest.`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := image.Default()
			if err != nil {
				return err
			}
			bar := a.newProgress()
			entry, err := store.Build(cmd.Context(), args[0], args[1], func(p image.Progress) {
				bar.bytes("build "+args[0], p.Phase, p.Done, p.Total)
			})
			bar.close()
			if err != nil {
				return err
			}
			for _, note := range entry.Notes {
				a.notice("%s", note)
			}
			if asJSON {
				return a.printJSON(entry)
			}
			return a.printf("%s\n", entry.Digest)
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newImageList(a *app) *cobra.Command {
	var asJSON, quiet bool
	cmd := &cobra.Command{
		Use:     "ls [--json] [--quiet]",
		Aliases: []string{"list"},
		Short:   "List the images of this host",
		Long: `List the images of this host.

  aether image ls

Columns:
  name     what it is called by; "-" if only by its digest
  digest   of its content; its first digits are enough for other commands
  size     space on disk in MiB, with the forms that systems derived from it
  files    files, directories and links in it
  created  when it was built here
  source   what it was built from`,
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if asJSON && quiet {
				return usageError("give one of them", "--json and --quiet exclude each other")
			}
			store, err := image.Default()
			if err != nil {
				return err
			}
			entries, err := store.List()
			if err != nil {
				return err
			}
			if asJSON {
				if entries == nil {
					entries = []image.Entry{}
				}
				return a.printJSON(entries)
			}
			if quiet {
				return a.printNames(entries)
			}
			t := table{head: []string{"name", "digest", "size", "files", "created", "source"}, right: map[int]bool{2: true, 3: true}}
			for _, e := range entries {
				name := strings.Join(e.Names, ",")
				if name == "" {
					name = "-"
				}
				t.add(name, e.Digest[:min(len(e.Digest), len("sha256:")+12)],
					fmt.Sprintf("%.1f", float64(e.Bytes)/(1<<20)), strconv.Itoa(e.Files),
					e.Created.UTC().Format("2006-01-02 15:04"), e.Source)
			}
			return t.write(a.out)
		},
	}
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only, or the digest of an image without one")
	return cmd
}

func (a *app) printNames(entries []image.Entry) error {
	var b strings.Builder
	for _, e := range entries {
		names := e.Names
		if len(names) == 0 {
			names = []string{e.Digest}
		}
		for _, name := range names {
			b.WriteString(name + "\n")
		}
	}
	return a.printf("%s", b.String())
}

func newImageRemove(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "rm IMAGE... [--json]",
		Aliases: []string{"remove"},
		Short:   "Remove images",
		Long: `Remove images, by name or digest. An image that has several names loses the one that
is given; with the last name, or by its digest, its content goes too. An image that a
sandbox or a bench is using is kept.

  aether image rm debian-python

It prints what was removed, one a line.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError("`aether image ls` lists the images", "%s: an argument is missing", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := image.Default()
			if err != nil {
				return err
			}
			return a.removeEach(args, asJSON, "`aether image ls` lists the images", func(name string) error {
				err := store.Remove(cmd.Context(), name)
				if errors.Is(err, image.ErrInUse) {
					err = failed(err, "close what uses it first, or wait for it", "%v", err)
				}
				return err
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// holdImage finds an image in this host's store and keeps it from being removed until the returned
// value is closed.
func holdImage(name string) (sandbox.Image, io.Closer, error) {
	store, err := image.Default()
	if err != nil {
		return sandbox.Image{}, nil, err
	}
	img, err := store.Resolve(name)
	if err != nil {
		return sandbox.Image{}, nil, err
	}
	hold, err := image.Hold(img)
	return img, hold, err
}
