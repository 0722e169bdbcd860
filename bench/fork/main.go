// Command fork measures what a copy of a virtual machine costs, step by step, beside what it costs when nothing is done but
// the calls to KVM (package floor), in the same run and in turn, so that what else a host does is in all of it.
//
// With -guest micro the guest is a few instructions, which every kind of KVM runs. It is copied from images of each of
// the memory sizes, and from copies of copies, to as many generations as -depth says. With -guest linux it is Debian with the
// guest agent and Python imported, which needs a KVM that is real, and root; each generation has run a program.
//
// It prints one line of Go benchmark text for each sample, and a table of medians to standard error.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"

	"github.com/aethervm/aether/internal/floor"
)

func main() {
	guest := flag.String("guest", "micro", "the guest: micro or linux")
	n := flag.Int("n", 50, "number of copies of each kind")
	memory := flag.String("memory", "256,4096", "memory of the guests in MiB")
	depth := flag.String("depth", "1,50", "generations of copies that the measured copy is of, itself one")
	expected := flag.Int("expected", 0, "of a Linux guest: how many copies branches are told to be for; else twice as many as there are of each kind, since there are two kinds at least")
	flag.Parse()
	sizes, err := numbers(*memory, 128)
	depths, err2 := numbers(*depth, 1)
	if err := errors.Join(err, err2); err != nil || *n < 1 || flag.NArg() > 0 || *guest != "micro" && *guest != "linux" {
		fmt.Fprintln(os.Stderr, "usage: fork [-guest micro|linux] [-n COPIES] [-memory MIB,...] [-depth GENERATIONS,...]", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r := &record{}
	if *guest == "micro" {
		err = micro(ctx, r, *n, sizes, depths)
	} else {
		err = linux(ctx, r, *n, cmp.Or(*expected, 2**n), sizes, depths)
	}
	r.table(os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fork:", err)
		os.Exit(1)
	}
}

// numbers reads a list of numbers, none of them less than low.
func numbers(list string, low int) ([]int, error) {
	var all []int
	for s := range strings.SplitSeq(list, ",") {
		v, err := strconv.Atoi(s)
		if err != nil || v < low {
			return nil, fmt.Errorf("%q: numbers from %d on are needed", list, low)
		}
		all = append(all, v)
	}
	return all, nil
}

// floors measures one fork of each size at the floor whenever it is told to, on a thread of its own.
type floors struct{ next, done chan error }

func newFloors(r *record, sizes []int) (*floors, error) {
	f := &floors{make(chan error), make(chan error)}
	go func() {
		runtime.LockOSThread()
		var templates []*floor.Template
		var err error
		for _, size := range sizes {
			var t *floor.Template
			if t, err = floor.New(size << 20); err != nil {
				break
			}
			templates = append(templates, t)
		}
		f.done <- err
		for range f.next {
			var err error
			for i, t := range templates {
				err = errors.Join(err, forkFloor(r, t, sizes[i]))
			}
			f.done <- err
		}
		err = nil
		for _, t := range templates {
			err = errors.Join(err, t.Close())
		}
		f.done <- err
	}()
	if err := <-f.done; err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func forkFloor(r *record, t *floor.Template, size int) error {
	phases, err := t.Fork()
	l := &laps{record: r, kind: fmt.Sprintf("floor memory=%dMiB", size)}
	for _, p := range phases {
		if p.Name != floor.CloseName {
			l.add(p.Name, p.Took)
		}
	}
	return err
}

func (f *floors) fork() error {
	f.next <- nil
	return <-f.done
}

func (f *floors) close() error {
	close(f.next)
	return <-f.done
}
