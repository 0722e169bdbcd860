// Command scale measures what many copies of one virtual machine cost: the time until all have answered and the memory of
// each (fanout), how both depend on how many virtual machines share a process (share), and whether the ten thousandth copy
// takes as long as the first (sustain).
//
// The guest is a few instructions, which every kind of KVM runs, or with -guest linux a sandbox of AetherVM; then this host
// must have an image and a guest kernel, and /dev/kvm must be real ("aether doctor"). It prints Go benchmark text, and with
// -out appends every sample as a line of JSON. It must be built after `make agent`, and run as root. Nothing else should run
// beside it: the memory of the kernel is that of the whole host.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aethervm/aether/internal/cell"
)

func main() {
	cell.Main() // of a process that is a cell
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run() error {
	var b bench
	axis := flag.String("axis", "fanout", "what to measure: fanout, share or sustain")
	guest := flag.String("guest", "micro", "the guest: micro, process (which is micro without a cell, for sustain) or linux")
	steps := flag.String("n", "1,10,100,500", "numbers of copies, ascending")
	out := flag.String("out", "", "file to append samples to")
	flag.IntVar(&b.atOnce, "at-once", 0, "how many copies of a Linux guest a fork makes, which are paused before the next one, as an\n"+
		"agent runtime pauses those that nobody uses; 0 for all, which go on")
	flag.IntVar(&b.memoryMiB, "memory", 64, "memory of the guest in MiB; of a Linux guest, what its programs may use")
	flag.IntVar(&b.perCell, "per-cell", 1, "how many copies of a Linux or micro-guest may share a process")
	flag.Parse()
	list, err := numbers(*steps)
	if err != nil || flag.NArg() > 0 {
		return errors.Join(err, errors.New("usage: scale [-axis AXIS] [-guest GUEST] [-memory MIB] [-n N,N...] [-out FILE]"))
	}
	if *out != "" {
		f, err := os.OpenFile(*out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		b.samples = json.NewEncoder(f)
	}
	b.guest = *guest
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	switch *axis + " " + *guest {
	case "fanout micro":
		return b.fanout(ctx, list, b.newMicro)
	case "fanout linux":
		return b.fanout(ctx, list, b.newLinux)
	case "share micro":
		return b.share(ctx, list)
	case "sustain micro":
		return b.sustain(ctx, list, b.newMicro)
	case "sustain process":
		return b.sustain(ctx, list, b.newProcess)
	case "sustain linux":
		return b.sustain(ctx, list, b.newLinux)
	}
	return fmt.Errorf("there is no axis %s of guest %s", *axis, *guest)
}

// numbers reads a list of ascending positive numbers.
func numbers(text string) (list []int, err error) {
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 1 || len(list) > 0 && n <= list[len(list)-1] {
			return nil, fmt.Errorf("%q is no list of ascending numbers", text)
		}
		list = append(list, n)
	}
	return list, nil
}

// bench is one run.
type bench struct {
	guest     string
	memoryMiB int
	perCell   int
	atOnce    int
	samples   *json.Encoder // nil for none
}

// sample is one figure.
type sample struct {
	Name  string  `json:"name"`
	Guest string  `json:"guest"`
	N     int     `json:"n"` // copies, or virtual machines in one process
	Index int     `json:"index"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

func (b *bench) record(name string, n, index int, value float64, unit string) {
	if b.samples != nil {
		// What was measured is on standard output too.
		_ = b.samples.Encode(sample{name, b.guest, n, index, value, unit})
	}
}

// print is one line of Go benchmark text; figures are pairs of a value and its unit.
func (b *bench) print(name string, n int, figures ...any) {
	fmt.Printf("Benchmark%s/guest=%s/n=%d 1", name, b.guest, n)
	for i := 0; i+1 < len(figures); i += 2 {
		fmt.Printf(" %v %s", figures[i], figures[i+1])
	}
	fmt.Println()
}

// quantile is that of unsorted durations, in milliseconds.
func quantile(all []time.Duration, q float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	if len(sorted) == 0 {
		return 0
	}
	return ms(sorted[int(q*float64(len(sorted)-1)+0.5)])
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
