package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/report"
)

// comparisonName is the default name of the page that compares two results directories.
const comparisonName = "comparison.html"

func newReport(a *app) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "report DIR [DIR2] [-o FILE]",
		Short: "Write the HTML page about a results directory, or about two",
		Long: `Write one self-contained HTML page about a results directory of "aether bench": the
ranking, the distributions of all raw samples, the isolation probes, the jobs of the
scripted agent, what each score was computed from, and what was not available. The page
loads nothing from the network.

  aether report aether-bench-20260102-150405
  aether report before after -o comparison.html

With two directories the page shows what has changed from the first to the second. It
prints where the page is: report.html in DIR, or comparison.html in DIR2, unless -o names
another file; "-o -" writes the page to standard output.`,
		Args: takes(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			write, name, err := preparePage(args)
			if err != nil {
				return err
			}
			switch out {
			case "-":
				return write(a.out)
			case "":
				out = name
			}
			if err := writeWhole(out, write); err != nil {
				return err
			}
			return a.printf("%s\n", out)
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "`FILE` to write")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return cmd
}

// preparePage reads one or two results directories. It returns what writes the page about them and
// the page's default name.
func preparePage(dirs []string) (write func(io.Writer) error, name string, err error) {
	first, err := loadResults(dirs[0])
	if err != nil {
		return nil, "", err
	}
	if len(dirs) == 1 {
		return func(w io.Writer) error { return report.Write(w, first) }, filepath.Join(dirs[0], reportName), nil
	}
	second, err := loadResults(dirs[1])
	if err != nil {
		return nil, "", err
	}
	return func(w io.Writer) error { return report.Compare(w, first, second) }, filepath.Join(dirs[1], comparisonName), nil
}

// writeWhole makes or replaces a file as a whole: on any error what was there before is untouched.
func writeWhole(name string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return failed(err, "choose a directory that exists and that you may write to", "write %s: %v", name, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
			err = failed(err, "", "write %s: %v", name, err)
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
